// A long-running job on a disk, with QEMU's life cycle (qapi/job.json: JobStatus, JobVerb).
//
//   created → running ⇄ paused            a paused job finishes the step in flight and starts no other
//             running → (ready ⇄ standby)  two-phase jobs only
//             running/ready → waiting → pending → concluded → null
//             any      → aborting → concluded → null   on cancel or error
//
// The verbs below only change state and wake the job; the job acts on them between two steps. Which verb is
// legal in which state is a pure table (job_state.hpp).
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/base/timer.hpp"
#include "engine/copy/rate_limit.hpp"
#include "engine/jobs/job_state.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

enum class job_type : std::uint8_t { stream, mirror, commit, backup };

/// QEMU's name of the type: "stream", "mirror", "commit", "backup".
std::string_view name_of(job_type type) noexcept;

/// What an I/O error does to the job (QEMU's BlockdevOnError).
enum class on_error : std::uint8_t { report, ignore, stop, enospc };

struct job_settings {
  std::string id;
  std::uint64_t speed_bytes_per_s = 0;  ///< 0 = no limit
  bool auto_finalize = true;
  bool auto_dismiss = true;
  on_error error_policy = on_error::report;
};

class job;

/// Told on the engine's thread; must not suspend or destroy the job.
class job_listener {
 public:
  virtual ~job_listener() = default;
  /// After every change of state; `job` has the new one.
  virtual void on_status(const job& changed) = 0;
  /// Two-phase job converged.
  virtual void on_ready(const job& changed) = 0;
  /// An I/O error the policy did not ignore silently. `action` is "report", "ignore" or "stop".
  virtual void on_error(const job& failed, bool is_read, std::string_view action) = 0;
};

class job {
 public:
  job(executor context, job_type type, std::string disk_name, job_settings settings);
  job(const job&) = delete;
  job& operator=(const job&) = delete;
  virtual ~job() = default;

  job_type type() const noexcept { return type_; }
  const std::string& id() const noexcept { return settings_.id; }
  const std::string& disk_name() const noexcept { return disk_name_; }
  const job_settings& settings() const noexcept { return settings_; }
  job_status status() const noexcept { return state_.status(); }
  /// Bytes done and to do; total may grow.
  std::uint64_t current_bytes() const noexcept { return current_bytes_; }
  std::uint64_t total_bytes() const noexcept { return total_bytes_; }
  /// "ok", "failed" or "nospace": why an on_error::stop job paused.
  std::string_view io_status() const noexcept { return io_status_; }
  bool pause_requested() const noexcept { return state_.pause_requested(); }
  bool cancel_requested() const noexcept { return state_.cancel_requested(); }
  /// Set once it failed or was cancelled; an empty text while all is well.
  const failure& error() const noexcept { return error_; }

  // Verbs (QMP job-*, block-job-*). Errors say which verb is not accepted in which state.

  outcome<void> pause();
  outcome<void> resume();
  outcome<void> cancel();
  /// Ends a two-phase job that is ready: complete() makes its success visible (pivot), finish() leaves the disk as
  /// it is. Before it is ready, finish() is cancel().
  outcome<void> complete();
  outcome<void> finish();
  outcome<void> finalize();
  outcome<void> dismiss();
  outcome<void> set_speed(std::uint64_t bytes_per_s);

  void set_listener(job_listener* listener) noexcept { listener_ = listener; }

  /// Runs the job to `concluded` (or on to `null` with auto_dismiss). Called once; the job outlives it.
  task<void> run();

 protected:
  /// The work: starts a step only after checkpoint(), and has none in flight when it returns.
  virtual task<outcome<void>> do_run() = 0;
  /// Waits until no step is in flight; called before the job is shown as paused.
  virtual task<void> do_settle() = 0;
  /// The change that makes success visible (drop the backing link, pivot). Not called after an error or cancel.
  virtual task<outcome<void>> do_finalize() = 0;
  /// The last thing the job does, however it ended: gives up what it holds.
  virtual task<void> do_clean_up();

  /// How a two-phase job was told to end.
  enum class ending { none, complete, finish };
  ending wanted_end() const noexcept { return wanted_end_; }
  /// The job has converged: it is ready, once.
  void become_ready();
  /// Suspends until a verb or wake() calls for a look. Nothing may be awaited between the look and this.
  task<void> wait_for_wake() { return wake_.wait(); }
  void wake();

  executor context() const noexcept { return executor_; }
  /// Books `bytes` that are about to be copied and suspends while the job is paused or over its speed.
  /// Errors: errc::cancelled.
  task<result<void>> checkpoint(std::uint64_t bytes);
  enum class error_action : std::uint8_t {
    retry,  ///< the job was paused and resumed: try the range again
    skip,   ///< go on with other ranges, and fail with the error at the end
    fail,   ///< stop now
  };
  /// Applies the error policy, which may pause the job first.
  task<error_action> action_after(error_code code, bool is_read);
  void set_progress(std::uint64_t current_bytes, std::uint64_t total_bytes) noexcept;

 private:
  task<outcome<void>> work_and_finalize();
  task<result<void>> wait_for_finalize();
  task<void> stay_paused();
  void move_to(job_status next);
  outcome<void> check(job_verb verb) const;

  executor executor_;
  job_type type_;
  std::string disk_name_;
  job_settings settings_;
  job_state state_;
  rate_limit limit_;
  std::uint64_t current_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
  std::string_view io_status_ = "ok";
  failure error_;
  bool finalize_requested_ = false;
  bool dismiss_requested_ = false;
  ending wanted_end_ = ending::none;
  job_listener* listener_ = nullptr;
  async_event wake_;
  timer timer_;
};

}  // namespace weir
