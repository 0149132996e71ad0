#include "engine/control/job_report.hpp"

#include "engine/jobs/mirror_job.hpp"

#include <boost/json/serialize.hpp>

#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

/// What BLOCK_JOB_READY, _COMPLETED and _CANCELLED have in common.
json::object progress_data(const job& described) {
  return {{"device", described.id()},
          {"len", described.total_bytes()},
          {"offset", described.current_bytes()},
          {"speed", described.settings().speed_bytes_per_s},
          {"type", name_of(described.type())}};
}

bool was_cancelled(const job& ended) {
  return ended.error().code == errc::cancelled;
}

qmp_event event_of_end(const job& ended) {
  json::object data = progress_data(ended);
  if (was_cancelled(ended)) return {"BLOCK_JOB_CANCELLED", std::move(data)};
  if (ended.error().code) data["error"] = ended.error().what;
  return {"BLOCK_JOB_COMPLETED", std::move(data)};
}

}  // namespace

json::object block_job_info(const job& described) {
  const job_status status = described.status();
  json::object info{{"auto-finalize", described.settings().auto_finalize},
                    {"io-status", described.io_status()},
                    {"device", described.id()},
                    {"auto-dismiss", described.settings().auto_dismiss},
                    {"busy", status == job_status::running},
                    {"len", described.total_bytes()},
                    {"offset", described.current_bytes()},
                    {"status", name_of(status)},
                    {"paused", described.pause_requested() || status == job_status::paused ||
                                   status == job_status::standby},
                    {"speed", described.settings().speed_bytes_per_s},
                    {"ready", status == job_status::ready || status == job_status::standby},
                    {"type", name_of(described.type())}};
  if (described.type() == job_type::mirror) {
    info["actively-synced"] = static_cast<const mirror_job&>(described).is_synchronous();
  }
  if (described.error().code) info["error"] = described.error().what;
  return info;
}

json::object job_info(const job& described) {
  json::object info{{"current-progress", described.current_bytes()},
                    {"status", name_of(described.status())},
                    {"total-progress", described.total_bytes()},
                    {"type", name_of(described.type())},
                    {"id", described.id()}};
  if (described.error().code) info["error"] = described.error().what;
  return info;
}

std::vector<qmp_event> events_of_status(const job& changed) {
  const job_status status = changed.status();
  std::vector<qmp_event> events;
  if (status == job_status::concluded) events.push_back(event_of_end(changed));
  events.push_back({"JOB_STATUS_CHANGE", {{"status", name_of(status)}, {"id", changed.id()}}});
  if (status == job_status::pending && !changed.settings().auto_finalize) {
    events.push_back({"BLOCK_JOB_PENDING", {{"type", name_of(changed.type())}, {"id", changed.id()}}});
  }
  return events;
}

qmp_event event_of_ready(const job& changed) {
  return {"BLOCK_JOB_READY", progress_data(changed)};
}

qmp_event event_of_error(const job& failed, bool is_read, std::string_view action) {
  return {"BLOCK_JOB_ERROR",
          {{"device", failed.id()}, {"operation", is_read ? "read" : "write"}, {"action", action}}};
}

std::string event_line(const qmp_event& event, std::chrono::system_clock::time_point when) {
  using std::chrono::duration_cast;
  const auto since = when.time_since_epoch();
  const auto seconds = duration_cast<std::chrono::seconds>(since);
  const auto rest = duration_cast<std::chrono::microseconds>(since - seconds);
  const json::object line{{"timestamp", {{"seconds", seconds.count()}, {"microseconds", rest.count()}}},
                          {"event", event.name},
                          {"data", event.data}};
  return json::serialize(line) + "\r\n";
}

}  // namespace weir
