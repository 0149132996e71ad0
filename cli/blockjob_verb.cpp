#include "cli/control_connection.hpp"
#include "cli/job_wait.hpp"
#include "cli/verbs.hpp"

#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

#include <array>
#include <cstdio>
#include <string_view>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

constexpr std::array<std::string_view, 6> actions{"info", "abort", "pivot", "bandwidth", "pause", "resume"};

void show(const json::object& job) {
  const auto done = job.at("offset").to_number<double>();
  const auto total = job.at("len").to_number<double>();
  const auto speed = job.at("speed").to_number<std::uint64_t>();
  const std::string type(job.at("type").as_string());
  const std::string status(job.at("status").as_string());
  std::printf("%s: [%6.2f %%] %s", type.c_str(), total > 0 ? done * 100 / total : 100.0, status.c_str());
  if (speed > 0) std::printf(", limit %llu bytes/s", static_cast<unsigned long long>(speed));
  if (const json::value* error = job.if_contains("error"))
    std::printf(", error: %s", error->as_string().c_str());
  std::puts("");
}

outcome<int> info(const std::optional<json::object>& job, const std::string& disk, bool as_json) {
  if (as_json) {
    std::puts(json::serialize(job.value_or(json::object())).c_str());
  } else if (job) {
    show(*job);
  } else {
    std::printf("No current block job for %s\n", disk.c_str());
  }
  return exit_done;
}

outcome<int> abort(control_connection& server, const std::string& disk, bool ready) {
  // One that is ready has something to keep.
  const auto cancelled = server.execute("block-job-cancel", {{"device", disk}, {"force", !ready}});
  if (cancelled.has_error()) return cancelled.error();
  const auto gone = wait_until_gone(server, disk);
  if (gone.has_error()) return gone.error();
  return exit_done;
}

outcome<int> act(control_connection& server, std::string_view command, const std::string& disk,
                 std::optional<std::int64_t> speed = std::nullopt) {
  json::object arguments{{"device", disk}};
  if (speed) arguments["speed"] = *speed;
  const auto done = server.execute(command, std::move(arguments));
  if (done.has_error()) return done.error();
  return exit_done;
}

/// The one action asked for; info by default.
outcome<std::string_view> chosen_action(const given_options& given) {
  std::string_view chosen;
  for (const std::string_view action : actions) {
    if (!given.has(action)) continue;
    if (!chosen.empty())
      return usage_failure("only one of --info --abort --pivot --bandwidth --pause --resume");
    chosen = action;
  }
  return chosen.empty() ? actions.front() : chosen;
}

void declare(option_set& options) {
  declare_control_option(options);
  options.flag("info", "Show the job; the default.")
      .flag("abort",
            "Cancel the job and return when it is gone. A copy that is ready ends as a point-in-time copy.")
      .flag("pivot", "Complete a job that is ready.")
      .value("bandwidth", "N",
             "Change the limit: MiB/s as a plain number, bytes/s with K, M, G or T; 0 for none.")
      .flag("pause", "Pause the job.")
      .flag("resume", "Let a paused job go on.")
      .flag("json", "With --info: print the job's query-block-jobs object, or {}.")
      .optional_argument("DISK", "The disk; may be left out when there is only one.");
}

outcome<int> run(const given_options& given) {
  const auto action = chosen_action(given);
  if (action.has_error()) return action.error();
  const auto bandwidth = read_bandwidth(given);
  if (bandwidth.has_error()) return bandwidth.error();
  auto server = connect_as_given(given);
  if (server.has_error()) return server.error();
  const auto disk = resolve_disk(**server, given.value("DISK"));
  if (disk.has_error()) return disk.error();
  const auto job = find_job(**server, *disk);
  if (job.has_error()) return job.error();
  if (*action == "info") return info(*job, *disk, given.has("json"));
  if (!*job) return failure{errc::not_supported, "no current block job for " + *disk};
  if (*action == "abort") return abort(**server, *disk, (**job).at("ready").as_bool());
  if (*action == "pivot") return act(**server, "block-job-complete", *disk);
  if (*action == "bandwidth") return act(**server, "block-job-set-speed", *disk, *bandwidth);
  return act(**server, *action == "pause" ? "block-job-pause" : "block-job-resume", *disk);
}

}  // namespace

verb blockjob_verb() {
  return {.name = "blockjob",
          .synopsis =
              "[-c SOCK] [--info [--json] | --abort | --pivot | --bandwidth N | --pause | --resume] [DISK]",
          .summary = "look at the job of a disk, or steer it",
          .description =
              "Shows or changes the job that runs on a disk of a running weir serve. Where there is no "
              "job, --info succeeds and the others fail.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
