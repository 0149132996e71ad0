// Flushes that are asked for while one is under way wait for it, then share the next one and its result: the one under
// way may have begun before what they are to cover.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"

#include <memory>
#include <optional>
#include <utility>

namespace weir {

class shared_flush {
 public:
  explicit shared_flush(executor context) : ended_(std::move(context)) {}

  /// `flush()` gives the task that flushes; no two of them run at the same time. Suspends.
  template <class Flush>
  task<result<void>> run(Flush flush) {
    const bool leads = next_ == nullptr;
    if (leads) next_ = std::make_shared<std::optional<result<void>>>();
    const std::shared_ptr<std::optional<result<void>>> round = next_;
    if (!leads) {
      while (!round->has_value()) co_await ended_.wait();
      co_return **round;
    }
    while (running_) co_await ended_.wait();
    next_.reset();
    running_ = true;
    const result<void> done = co_await flush();
    running_ = false;
    *round = done;
    ended_.notify_all();
    co_return done;
  }

  /// Somebody waits for the flush after the one under way.
  bool has_next() const noexcept { return next_ != nullptr; }

 private:
  bool running_ = false;
  std::shared_ptr<std::optional<result<void>>> next_;
  async_event ended_;
};

}  // namespace weir
