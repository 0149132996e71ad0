#include "cli/control_connection.hpp"
#include "cli/job_wait.hpp"
#include "cli/verbs.hpp"

#include <boost/json/object.hpp>

#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

void declare(option_set& options) {
  declare_control_option(options);
  options
      .value("base", "LAYER",
             "Stop above this layer, which stays as the backing image: DISK[INDEX] or a location.")
      .value("bandwidth", "N", "Limit: MiB/s as a plain number, bytes/s with K, M, G or T.")
      .flag("keep-relative", "With --base: record the base by a name relative to the active image.");
  declare_wait_options(options);
  options.optional_argument("DISK", "The disk; may be left out when there is only one.");
}

outcome<int> run(const given_options& given) {
  const auto settings = read_wait_options(given);
  if (settings.has_error()) return settings.error();
  const auto bandwidth = read_bandwidth(given);
  if (bandwidth.has_error()) return bandwidth.error();
  if (given.has("keep-relative") && !given.has("base")) return usage_failure("--keep-relative wants --base");
  auto server = connect_as_given(given);
  if (server.has_error()) return server.error();
  const auto disk = resolve_disk(**server, given.value("DISK"));
  if (disk.has_error()) return disk.error();
  json::object arguments{{"device", *disk}};
  if (const auto base = given.value("base")) arguments["base"] = *base;
  if (*bandwidth) arguments["speed"] = **bandwidth;
  if (given.has("keep-relative")) arguments["weir-keep-relative"] = true;
  const auto started = (*server)->execute("block-stream", std::move(arguments));
  if (started.has_error()) return started.error();
  if (!settings->wait) return exit_done;
  const auto ended = wait_for_job(**server, *disk, *settings);
  if (ended.has_error()) return ended.error();
  return exit_done;
}

}  // namespace

verb blockpull_verb() {
  return {.name = "blockpull",
          .synopsis =
              "[-c SOCK] [--base LAYER] [--bandwidth N] [--keep-relative] [--wait [--verbose] [--timeout S] "
              "[--async]] [DISK]",
          .summary = "bring what backing images hold into the active image",
          .description =
              "Starts a stream job on a disk of a running weir serve: all that the backing images hold, "
              "down to --base or the whole chain, is copied into the active image while the guest runs; "
              "then the backing link is changed or dropped.\n\nWithout --wait the command returns once "
              "the job runs; weir blockjob shows it. An interrupted job can be started again and goes "
              "on where it was.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
