#include "cli/control_connection.hpp"
#include "cli/job_wait.hpp"
#include "cli/verbs.hpp"

#include <boost/json/object.hpp>

#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

void declare(option_set& options) {
  declare_control_option(options);
  options.value("dest", "IMAGE", "The copy: a file to be made, or an NBD export, which must be there.")
      .value("format", "FMT", "Format of the copy; by default the disk's own, of an export raw.")
      .value("incremental", "BITMAP",
             "Copy only what this dirty bitmap of the active image says has changed; afterwards it says what "
             "has "
             "changed since this backup.")
      .flag("shallow", "Copy the active image only: the copy stands on the same backing image.")
      .flag("compress", "Write the copy compressed.")
      .flag("reuse-external", "The copy exists, has the disk's size, and is written to.")
      .flag("break-guest-write",
            "When old data cannot be saved, fail the guest's write that would change it, not the backup.")
      .value("bandwidth", "N", "Limit: MiB/s as a plain number, bytes/s with K, M, G or T.");
  declare_wait_options(options);
  options.optional_argument("DISK", "The disk; may be left out when there is only one.");
}

outcome<json::object> read_arguments(const given_options& given) {
  const auto dest = given.value("dest");
  if (!dest) return usage_failure("--dest IMAGE is missing");
  const auto bitmap = given.value("incremental");
  if (bitmap && given.has("shallow")) return usage_failure("--incremental and --shallow exclude each other");
  json::object arguments{
      {"target", absolute_image_name(*dest)},
      {"sync", bitmap                 ? "incremental"
               : given.has("shallow") ? "top"
                                      : "full"},
      {"mode", given.has("reuse-external") ? "existing" : "absolute-paths"},
      {"compress", given.has("compress")},
      {"on-cbw-error", given.has("break-guest-write") ? "break-guest-write" : "break-snapshot"}};
  if (bitmap) arguments["bitmap"] = *bitmap;
  if (const auto format = given.value("format")) arguments["format"] = *format;
  const auto bandwidth = read_bandwidth(given);
  if (bandwidth.has_error()) return bandwidth.error();
  if (*bandwidth) arguments["speed"] = **bandwidth;
  return arguments;
}

outcome<int> run(const given_options& given) {
  auto settings = read_wait_options(given);
  if (settings.has_error()) return settings.error();
  auto arguments = read_arguments(given);
  if (arguments.has_error()) return arguments.error();
  auto server = connect_as_given(given);
  if (server.has_error()) return server.error();
  const auto disk = resolve_disk(**server, given.value("DISK"));
  if (disk.has_error()) return disk.error();
  (*arguments)["device"] = *disk;
  settings->what = "backup";
  const auto started = (*server)->execute("drive-backup", std::move(*arguments));
  if (started.has_error()) return started.error();
  if (!settings->wait) return exit_done;
  const auto ended = wait_for_job(**server, *disk, *settings);
  if (ended.has_error()) return ended.error();
  std::puts("Backup complete");
  return exit_done;
}

}  // namespace

verb backup_verb() {
  return {
      .name = "backup",
      .synopsis =
          "[-c SOCK] --dest IMAGE [--format FMT] [--incremental BITMAP | --shallow] [--compress] "
          "[--reuse-external] [--break-guest-write] [--bandwidth N] [--wait [--verbose] [--timeout S] "
          "[--async]] [DISK]",
      .summary = "copy a disk as it is at this moment while its guest writes",
      .description =
          "Starts a backup job on a disk of a running weir serve. The copy holds what the disk held when the "
          "command was given: what the guest changes meanwhile is saved first.\n\nA new file gets its name "
          "once it "
          "is whole. An incremental copy holds only what has changed since the bitmap was begun, or since "
          "the "
          "last backup with it, zeros included; qemu-img rebase -u lets it stand on the backup "
          "before.\n\nWithout "
          "--wait the command returns once the job runs; weir blockjob shows it.",
      .declare = declare,
      .run = run};
}

}  // namespace weir::cli
