#include "cli/control_connection.hpp"
#include "cli/job_wait.hpp"
#include "cli/verbs.hpp"

#include <boost/json/object.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

void declare(option_set& options) {
  declare_control_option(options);
  options.value("dest", "IMAGE", "The copy: a file to be made, or an NBD export, which must be there.")
      .value("format", "FMT", "Format of the copy; by default the disk's own, of an export raw.")
      .flag("shallow", "Copy the active image only: the copy stands on the same backing image.")
      .value("base", "LAYER",
             "Copy the layers above this one, which the copy then stands on: DISK[INDEX] or a location.")
      .value("sync", "full|top|none",
             "In QEMU's words: full (the default), top as --shallow, none for later changes only.")
      .flag("reuse-external", "The copy exists, has the disk's size, and is written to.")
      .flag("synchronous-writes", "As --copy-mode write-blocking.")
      .value("copy-mode", "auto|background|write-blocking",
             "What a guest's write does: reaches the copy before it is answered (write-blocking), later "
             "(background), "
             "or later until all has been copied once and at once from then on (auto, the default).")
      .value("granularity", "SIZE",
             "Of what is remembered as changed: a power of two from 512 to 64M; 4K by default.")
      .value("buf-size", "SIZE", "Most that is in flight; 8M by default.")
      .value("bandwidth", "N", "Limit: MiB/s as a plain number, bytes/s with K, M, G or T.")
      .flag("pivot", "Wait until the copy is whole, then let the guest go on upon it.")
      .flag("finish", "Wait until the copy is whole, then end: it stays as of that moment.");
  declare_wait_options(options);
  options.optional_argument("DISK", "The disk; may be left out when there is only one.");
}

/// `sync`, from --sync, --shallow and --base, which say the same.
outcome<std::string> sync_of(const given_options& given) {
  const bool shallow = given.has("shallow") || given.has("base");
  const std::string sync = given.value("sync").value_or(shallow ? "top" : "full");
  constexpr std::array<std::string_view, 3> known{"full", "top", "none"};
  if (std::ranges::find(known, sync) == known.end()) return usage_failure("--sync wants full, top or none");
  if (shallow && sync != "top") return usage_failure("--shallow and --base mean --sync top");
  return sync;
}

outcome<std::string> copy_mode_of(const given_options& given) {
  const std::string mode =
      given.value("copy-mode").value_or(given.has("synchronous-writes") ? "write-blocking" : "auto");
  if (given.has("synchronous-writes") && mode != "write-blocking")
    return usage_failure("--synchronous-writes means --copy-mode write-blocking");
  if (mode == "auto") return std::string("weir-automatic");
  if (mode == "background" || mode == "write-blocking") return mode;
  return usage_failure("--copy-mode wants auto, background or write-blocking");
}

outcome<json::object> read_arguments(const given_options& given) {
  const auto dest = given.value("dest");
  if (!dest) return usage_failure("--dest IMAGE is missing");
  const auto sync = sync_of(given);
  if (sync.has_error()) return sync.error();
  const auto mode = copy_mode_of(given);
  if (mode.has_error()) return mode.error();
  json::object arguments{{"target", absolute_image_name(*dest)},
                         {"sync", *sync},
                         {"mode", given.has("reuse-external") ? "existing" : "absolute-paths"},
                         {"copy-mode", *mode}};
  if (const auto format = given.value("format")) arguments["format"] = *format;
  if (const auto base = given.value("base")) arguments["weir-base"] = *base;
  for (const auto& [option, key] :
       {std::pair("granularity", "granularity"), std::pair("buf-size", "buf-size")}) {
    const auto size = given.size(option);
    if (size.has_error()) return size.error();
    if (*size) arguments[key] = static_cast<std::int64_t>(**size);
  }
  const auto bandwidth = read_bandwidth(given);
  if (bandwidth.has_error()) return bandwidth.error();
  if (*bandwidth) arguments["speed"] = **bandwidth;
  return arguments;
}

/// Ends the job, which is ready, and waits for that.
outcome<int> end_job(control_connection& server, const std::string& disk, bool pivots,
                     const wait_settings& settings) {
  const auto told = pivots ? server.execute("block-job-complete", {{"device", disk}})
                           : server.execute("block-job-cancel", {{"device", disk}});
  if (told.has_error()) return told.error();
  const auto ended = wait_for_job(server, disk, settings);
  if (ended.has_error()) return ended.error();
  std::puts(pivots ? "Successfully pivoted" : "Successfully copied");
  return exit_done;
}

outcome<int> run(const given_options& given) {
  const bool ends = given.has("pivot") || given.has("finish");
  if (given.has("pivot") && given.has("finish"))
    return usage_failure("--pivot and --finish exclude each other");
  auto settings = read_wait_options(given, ends);
  if (settings.has_error()) return settings.error();
  auto arguments = read_arguments(given);
  if (arguments.has_error()) return arguments.error();
  auto server = connect_as_given(given);
  if (server.has_error()) return server.error();
  const auto disk = resolve_disk(**server, given.value("DISK"));
  if (disk.has_error()) return disk.error();
  (*arguments)["device"] = *disk;
  settings->what = "blockcopy";
  const auto started = (*server)->execute("drive-mirror", std::move(*arguments));
  if (started.has_error()) return started.error();
  if (!settings->wait) return exit_done;
  const auto ready = wait_until_ready(**server, *disk, *settings);
  if (ready.has_error()) return ready.error();
  if (ends) return end_job(**server, *disk, given.has("pivot"), *settings);
  std::puts("Now in mirroring phase");
  return exit_done;
}

}  // namespace

verb blockcopy_verb() {
  return {
      .name = "blockcopy",
      .synopsis =
          "[-c SOCK] --dest IMAGE [--format FMT] [--shallow | --base LAYER] [--reuse-external] "
          "[--copy-mode MODE] [--granularity SIZE] [--buf-size SIZE] [--bandwidth N] [--wait "
          "[--pivot | --finish] [--verbose] [--timeout S] [--async]] [DISK]",
      .summary = "copy a disk to another image while its guest writes",
      .description =
          "Starts a mirror job on a disk of a running weir serve. Once all has been copied the job is ready "
          "and "
          "the copy follows every change, until weir blockjob --pivot lets the guest go on upon the copy, or "
          "--abort leaves the copy as of that moment.\n\nZeros do not travel and take no space in the copy. "
          "Without --wait the command returns once the job runs; --wait returns when it is ready; --pivot "
          "and "
          "--finish wait and end it. The record of --state does not hold mirror jobs: they end with the "
          "server, "
          "and the copy is then incomplete.",
      .declare = declare,
      .run = run};
}

}  // namespace weir::cli
