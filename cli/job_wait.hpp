// Waiting for a job on a running serve, as blockpull --wait does.
#pragma once

#include "cli/control_connection.hpp"
#include "cli/option_set.hpp"
#include "cli/progress.hpp"

#include <chrono>
#include <optional>
#include <string>

namespace weir::cli {

struct wait_settings {
  bool wait = false;
  bool asynchronous = false;  ///< after a cancel, do not wait until the job is gone
  std::optional<std::chrono::seconds> timeout;
  progress_style style = progress_style::none;
};

/// --wait --verbose --timeout --async -p
void declare_wait_options(option_set& options);
/// Errors: usage.
outcome<wait_settings> read_wait_options(const given_options& given);

/// Waits until the job has ended. A signal or the time-out cancels it. Failures say how it ended.
outcome<void> wait_for_job(control_connection& server, const std::string& id, const wait_settings& settings);

/// Waits until the job is gone, whatever its end. Precondition: the connection was there before it could go.
outcome<void> wait_until_gone(control_connection& server, const std::string& id);

/// The query-block-jobs entry of the job, if there is one.
outcome<std::optional<boost::json::object>> find_job(control_connection& server, const std::string& id);

}  // namespace weir::cli
