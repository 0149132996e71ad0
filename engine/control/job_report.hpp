// How jobs look on the control socket: query objects and events (qapi/job.json, qapi/block-core.json).
#pragma once

#include "engine/jobs/job.hpp"

#include <boost/json/object.hpp>

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

/// An entry of query-block-jobs.
boost::json::object block_job_info(const job& described);
/// An entry of query-jobs.
boost::json::object job_info(const job& described);

struct qmp_event {
  std::string_view name;
  boost::json::object data;
};

/// The events of a change of state, in QEMU's order: BLOCK_JOB_COMPLETED and BLOCK_JOB_CANCELLED go before
/// JOB_STATUS_CHANGE to `concluded`, BLOCK_JOB_PENDING behind JOB_STATUS_CHANGE to `pending`.
std::vector<qmp_event> events_of_status(const job& changed);
qmp_event event_of_ready(const job& changed);
qmp_event event_of_error(const job& failed, bool is_read, std::string_view action);

/// The event's line.
std::string event_line(const qmp_event& event, std::chrono::system_clock::time_point when);

}  // namespace weir
