#include "cli/job_wait.hpp"

#include <boost/json/array.hpp>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;
using clock = control_connection::clock;
using namespace std::chrono_literals;

constexpr auto poll_interval = 500ms;

struct job_end {
  bool cancelled = false;
  std::string error;
};

std::string text_at(const json::object& object, std::string_view key) {
  const json::value* found = object.if_contains(key);
  return found != nullptr && found->is_string() ? std::string(found->get_string()) : std::string();
}

/// How the job ended, if the event tells the end of this one.
std::optional<job_end> end_in(const json::object& event, const std::string& id) {
  const std::string name = text_at(event, "event");
  const json::value* data = event.if_contains("data");
  if (data == nullptr || !data->is_object() || text_at(data->get_object(), "device") != id)
    return std::nullopt;
  if (name == "BLOCK_JOB_CANCELLED") return job_end{true, {}};
  if (name == "BLOCK_JOB_COMPLETED") return job_end{false, text_at(data->get_object(), "error")};
  return std::nullopt;
}

bool says_gone(const json::object& event, const std::string& id) {
  const json::value* data = event.if_contains("data");
  return text_at(event, "event") == "JOB_STATUS_CHANGE" && data != nullptr && data->is_object() &&
         text_at(data->get_object(), "id") == id && text_at(data->get_object(), "status") == "null";
}

bool says_ready(const json::object& event, const std::string& id) {
  const json::value* data = event.if_contains("data");
  return text_at(event, "event") == "BLOCK_JOB_READY" && data != nullptr && data->is_object() &&
         text_at(data->get_object(), "device") == id;
}

/// Draws the job's progress, if it is still there.
outcome<void> show_progress(control_connection& server, const std::string& id, progress_meter& meter) {
  const auto found = find_job(server, id);
  if (found.has_error()) return found.error();
  if (*found) {
    meter.update((*found)->at("offset").to_number<std::uint64_t>(),
                 (*found)->at("len").to_number<std::uint64_t>());
  }
  return {};
}

outcome<void> cancel(control_connection& server, const std::string& id, const wait_settings& settings) {
  const auto cancelled = server.execute("block-job-cancel", {{"device", id}, {"force", true}});
  if (cancelled.has_error()) return cancelled.error();
  if (settings.asynchronous) return {};
  return wait_until_gone(server, id);
}

/// Cancels the job and says why the command failed.
failure give_up(control_connection& server, const std::string& id, const wait_settings& settings,
                const std::string& why) {
  const outcome<void> cancelled = cancel(server, id, settings);
  const std::string end = cancelled.has_error() ? "the job could not be cancelled: " + cancelled.error().what
                                                : std::string("the job was cancelled");
  return {errc::cancelled, id + ": " + why + "; " + end};
}

outcome<void> tell(const job_end& end, const std::string& id) {
  if (end.cancelled) return failure{errc::cancelled, id + ": the job was cancelled"};
  if (!end.error.empty()) return failure{errno_code(EIO), id + ": " + end.error};
  return {};
}

}  // namespace

void declare_wait_options(option_set& options) {
  options.flag("wait", "Return only when the job has ended. Ctrl-C cancels it.")
      .flag("verbose", "With --wait: show the progress, also where stderr is no terminal.")
      .value("timeout", "S", "With --wait: cancel the job after S seconds.")
      .flag("async", "With --wait: after a cancel, do not wait until the job is gone.")
      .progress();
}

outcome<wait_settings> read_wait_options(const given_options& given, bool waits) {
  wait_settings settings;
  settings.wait = waits || given.has("wait");
  settings.asynchronous = given.has("async");
  if (settings.asynchronous && !settings.wait) return usage_failure("--async wants --wait");
  const auto timeout = given.number("timeout");
  if (timeout.has_error()) return timeout.error();
  if (*timeout && !settings.wait) return usage_failure("--timeout wants --wait");
  constexpr std::uint64_t longest_seconds = 10 * 365 * 86400UL;
  if (*timeout) settings.timeout = std::chrono::seconds(std::min(**timeout, longest_seconds));
  const auto style = parse_progress(given.value("progress"));
  if (!style) return usage_failure("progress: only =json or nothing may follow");
  settings.style = *style;
  if (given.has("verbose") && settings.style == progress_style::none) settings.style = progress_style::bar;
  return settings;
}

outcome<std::optional<json::object>> find_job(control_connection& server, const std::string& id) {
  const auto jobs = server.execute("query-block-jobs");
  if (jobs.has_error()) return jobs.error();
  for (const json::value& each : jobs->as_array()) {
    if (each.at("device").as_string() == id) return std::optional(each.as_object());
  }
  return std::optional<json::object>();
}

outcome<void> wait_until_gone(control_connection& server, const std::string& id) {
  while (true) {
    const auto found = find_job(server, id);
    if (found.has_error()) return found.error();
    // One that is kept until it is dismissed is over all the same.
    if (!*found || (**found).at("status").as_string() == "concluded") return {};
    const auto until = clock::now() + poll_interval;
    while (clock::now() < until) {
      const auto event = server.wait_for_event(until);
      if (event.has_error()) return event.error();
      if (!*event) break;
      if (says_gone(**event, id)) return {};
    }
  }
}

namespace {

/// Waits until an event ends the wait: what `decide` makes of one.
template <class Decide>
outcome<void> wait_for(control_connection& server, const std::string& id, const wait_settings& settings,
                       Decide decide) {
  progress_meter meter(settings.style, settings.what + " " + id);
  const auto deadline = settings.timeout ? clock::now() + *settings.timeout : clock::time_point::max();
  while (true) {
    const auto event = server.wait_for_event(std::min(deadline, clock::now() + poll_interval));
    if (event.has_error()) return event.error();
    if (const std::optional<outcome<void>> end = *event ? decide(**event) : std::nullopt) {
      if (end->has_value()) meter.complete();
      meter.finish();
      return *end;
    }
    if (server.interrupted()) return give_up(server, id, settings, "interrupted");
    if (clock::now() >= deadline) return give_up(server, id, settings, "timed out");
    if (*event || settings.style == progress_style::none) continue;
    if (auto shown = show_progress(server, id, meter); shown.has_error()) return shown;
  }
}

}  // namespace

outcome<void> wait_for_job(control_connection& server, const std::string& id, const wait_settings& settings) {
  const auto decide = [&](const json::object& event) -> std::optional<outcome<void>> {
    const auto end = end_in(event, id);
    if (!end) return std::nullopt;
    return tell(*end, id);
  };
  return wait_for(server, id, settings, decide);
}

outcome<void> wait_until_ready(control_connection& server, const std::string& id,
                               const wait_settings& settings) {
  const auto decide = [&](const json::object& event) -> std::optional<outcome<void>> {
    if (says_ready(event, id)) return outcome<void>();
    const auto end = end_in(event, id);
    if (!end) return std::nullopt;
    auto told = tell(*end, id);
    if (told.has_value()) told = failure{errc::cancelled, id + ": the job ended before it was ready"};
    return told;
  };
  return wait_for(server, id, settings, decide);
}

}  // namespace weir::cli
