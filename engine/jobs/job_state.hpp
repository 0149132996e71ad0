// The life cycle of a job as a plain state machine (QEMU's JobStatus and JobVerb tables), without I/O.
#pragma once

#include <cstdint>
#include <string_view>

namespace weir {

enum class job_status : std::uint8_t {
  created,
  running,
  paused,
  ready,
  standby,  ///< paused while ready
  waiting,
  pending,
  aborting,
  concluded,
  null,
};

enum class job_verb : std::uint8_t { cancel, pause, resume, set_speed, complete, finalize, dismiss };

/// QEMU's spelling, e.g. "standby", "set-speed".
std::string_view name_of(job_status status) noexcept;
std::string_view name_of(job_verb verb) noexcept;

/// True if QEMU's JobVerbTable accepts `verb` in `status`.
bool accepts(job_status status, job_verb verb) noexcept;
/// True if QEMU's JobSTT has the transition.
bool may_follow(job_status from, job_status to) noexcept;

class job_state {
 public:
  job_status status() const noexcept { return status_; }
  bool pause_requested() const noexcept { return pause_requested_; }
  bool cancel_requested() const noexcept { return cancel_requested_; }

  /// Precondition: may_follow(status(), next).
  void move_to(job_status next) noexcept;
  void request_pause(bool on) noexcept { pause_requested_ = on; }
  void request_cancel() noexcept { cancel_requested_ = true; }

 private:
  job_status status_ = job_status::created;
  bool pause_requested_ = false;
  bool cancel_requested_ = false;
};

}  // namespace weir
