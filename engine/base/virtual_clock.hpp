// Time that only passes when the simulator says so.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/task.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <utility>

namespace weir {

class virtual_clock {
 public:
  using duration = std::chrono::nanoseconds;

  explicit virtual_clock(executor context) : executor_(std::move(context)) {}
  virtual_clock(const virtual_clock&) = delete;
  virtual_clock& operator=(const virtual_clock&) = delete;

  /// Time since the clock was made.
  duration now() const noexcept { return now_; }

  /// Runs `event` on the engine's thread once `delay` has passed; events due at one time run in the order in
  /// which they were scheduled. Precondition: delay >= 0.
  void schedule(duration delay, resumption event) { due_.emplace(now_ + delay, std::move(event)); }

  /// Suspends for `delay`; another turn even if that is 0.
  task<void> sleep(duration delay) {
    co_await suspend_until([this, delay](resumption resume) { schedule(delay, std::move(resume)); });
  }

  /// Jumps to the next due event and posts all that are due then. False if nothing is scheduled.
  bool advance() {
    if (due_.empty()) return false;
    now_ = due_.begin()->first;
    while (!due_.empty() && due_.begin()->first == now_) {
      run_later(executor_, std::move(due_.begin()->second));
      due_.erase(due_.begin());
    }
    return true;
  }

 private:
  executor executor_;
  duration now_{0};
  std::multimap<duration, resumption> due_;
};

}  // namespace weir
