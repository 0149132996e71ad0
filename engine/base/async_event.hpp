// A suspension point for tasks: wait until someone else on the engine's thread says go.
#pragma once

#include "engine/base/task.hpp"

#include <deque>
#include <utility>

namespace weir {

/// Broadcast: tasks wait, notify_all() resumes each of them through the executor. Waiters re-check their
/// condition, since it may have changed again by the time they run.
class async_event {
 public:
  explicit async_event(executor context) : executor_(std::move(context)) {}
  async_event(const async_event&) = delete;
  async_event& operator=(const async_event&) = delete;

  task<void> wait();
  void notify_all();

  bool has_waiters() const noexcept { return !waiters_.empty(); }

 private:
  executor executor_;
  std::deque<resumption> waiters_;
};

}  // namespace weir
