#include "cli/control_connection.hpp"
#include "cli/job_wait.hpp"
#include "cli/verbs.hpp"

#include <boost/json.hpp>

#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

void declare(option_set& options) {
  declare_control_option(options);
  options
      .value("base", "LAYER",
             "Merge down into this layer: DISK[INDEX] or a location; by default the last one of the chain.")
      .value("top", "LAYER", "Merge from this layer on; by default the active one.")
      .flag("shallow", "Merge into the layer right below the top.")
      .flag("active", "The top is the active layer: a job of two phases.")
      .flag("delete", "Remove the files of the layers that have been merged.")
      .flag("keep-relative", "Record the base by a name relative to the layer above the top.")
      .value("bandwidth", "N", "Limit: MiB/s as a plain number, bytes/s with K, M, G or T.")
      .flag("pivot", "Active: wait until the base has all, then let the guest go on upon it.")
      .flag("keep-overlay", "Active: wait until the base has all, then end and go on as before.");
  declare_wait_options(options);
  options.optional_argument("DISK", "The disk; may be left out when there is only one.");
}

struct commit_words {
  bool active = false;
  bool pivots = false;
  bool keeps_overlay = false;
  bool ends() const noexcept { return pivots || keeps_overlay; }
};

outcome<commit_words> read_words(const given_options& given) {
  commit_words words;
  words.pivots = given.has("pivot");
  words.keeps_overlay = given.has("keep-overlay");
  words.active = given.has("active") || words.ends();
  if (words.pivots && words.keeps_overlay)
    return usage_failure("--pivot and --keep-overlay exclude each other");
  if (given.has("shallow") && given.has("base"))
    return usage_failure("--shallow and --base exclude each other");
  if (words.keeps_overlay && given.has("delete"))
    return usage_failure("--delete would remove what --keep-overlay keeps");
  if (!words.active && !given.has("top"))
    return usage_failure("without --top the active layer is merged: say --active, --pivot or --keep-overlay");
  return words;
}

/// The layer right below the top, by its name on the server.
outcome<std::string> layer_below(control_connection& server, const std::string& disk,
                                 const std::string& top) {
  auto listed = server.execute("query-named-block-nodes", {});
  if (listed.has_error()) return listed.error();
  bool next = false;
  for (const json::value& node : listed->as_array()) {
    const json::object& shown = node.as_object();
    const json::value* const name = shown.if_contains("node-name");
    const json::value* const file = shown.if_contains("file");
    const std::string node_name = name != nullptr ? json::value_to<std::string>(*name) : "";
    const bool of_disk = node_name == disk || node_name.starts_with(disk + "[");
    if (!of_disk) continue;
    if (next) return node_name;
    const bool is_top =
        top.empty() ? node_name == disk : node_name == top || (file != nullptr && file->as_string() == top);
    next = is_top;
  }
  return failure{errc::out_of_range, "disk '" + disk + "' has no layer below '" + top + "'"};
}

outcome<json::object> read_arguments(const given_options& given, control_connection& server,
                                     const std::string& disk) {
  json::object arguments{{"device", disk}};
  const std::string top = given.value("top").value_or("");
  if (!top.empty()) arguments["top"] = top;
  if (const auto base = given.value("base")) arguments["base"] = *base;
  if (given.has("shallow")) {
    const auto below = layer_below(server, disk, top);
    if (below.has_error()) return below.error();
    arguments["base-node"] = *below;
  }
  if (given.has("delete")) arguments["weir-delete"] = true;
  if (given.has("keep-relative")) arguments["weir-keep-relative"] = true;
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
  std::puts(pivots ? "Successfully pivoted" : "Commit complete, overlay image kept");
  return exit_done;
}

outcome<int> wait_for_end(control_connection& server, const std::string& disk, const commit_words& words,
                          const wait_settings& settings) {
  if (!words.active) {
    const auto ended = wait_for_job(server, disk, settings);
    if (ended.has_error()) return ended.error();
    std::puts("Commit complete");
    return exit_done;
  }
  const auto ready = wait_until_ready(server, disk, settings);
  if (ready.has_error()) return ready.error();
  if (words.ends()) return end_job(server, disk, words.pivots, settings);
  std::puts("Now in synchronized phase");
  return exit_done;
}

outcome<int> run(const given_options& given) {
  const auto words = read_words(given);
  if (words.has_error()) return words.error();
  auto settings = read_wait_options(given, words->ends());
  if (settings.has_error()) return settings.error();
  settings->what = "blockcommit";
  auto server = connect_as_given(given);
  if (server.has_error()) return server.error();
  const auto disk = resolve_disk(**server, given.value("DISK"));
  if (disk.has_error()) return disk.error();
  auto arguments = read_arguments(given, **server, *disk);
  if (arguments.has_error()) return arguments.error();
  const auto started = (*server)->execute("block-commit", std::move(*arguments));
  if (started.has_error()) return started.error();
  if (!settings->wait) return exit_done;
  return wait_for_end(**server, *disk, *words, *settings);
}

}  // namespace

verb blockcommit_verb() {
  return {
      .name = "blockcommit",
      .synopsis =
          "[-c SOCK] [--top LAYER | --active] [--base LAYER | --shallow] [--delete] [--keep-relative] "
          "[--bandwidth N] [--wait [--pivot | --keep-overlay] [--verbose] [--timeout S] [--async]] [DISK]",
      .summary = "merge layers of a chain downwards while the guest runs",
      .description =
          "Starts a commit job on a disk of a running weir serve: what the layers from --top down to above "
          "--base hold is written into the base, which grows where it is smaller.\n\nWith a --top in the "
          "middle of the chain the layer above it is then given the base as its backing image. With the "
          "active "
          "layer as the top (--active, --pivot, --keep-overlay) the job becomes ready once the base has "
          "everything, and keeps it so; --pivot, or weir blockjob --pivot, lets the guest go on upon the "
          "base, "
          "--keep-overlay, or weir blockjob --abort, ends the job with nothing changed but the "
          "base.\n\nThe files of merged layers stay unless --delete is given; nothing uses them any more, "
          "and "
          "what else stands on them or on the base reads wrongly from now on.",
      .declare = declare,
      .run = run};
}

}  // namespace weir::cli
