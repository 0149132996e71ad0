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
  std::string what = "blockpull";  ///< the verb, for the progress bar
};

/// --wait --verbose --timeout --async -p
void declare_wait_options(option_set& options);
/// `waits` says that the verb waits anyway. Errors: usage.
outcome<wait_settings> read_wait_options(const given_options& given, bool waits = false);

/// Waits until a two-phase job is ready. A signal or the time-out cancels it. Failures say how it ended instead.
outcome<void> wait_until_ready(control_connection& server, const std::string& id,
                               const wait_settings& settings);

/// Waits until the job has ended. A signal or the time-out cancels it. Failures say how it ended.
outcome<void> wait_for_job(control_connection& server, const std::string& id, const wait_settings& settings);

/// Waits until the job is gone, whatever its end. Precondition: the connection was there before it could go.
outcome<void> wait_until_gone(control_connection& server, const std::string& id);

/// The query-block-jobs entry of the job, if there is one.
outcome<std::optional<boost::json::object>> find_job(control_connection& server, const std::string& id);

}  // namespace weir::cli
