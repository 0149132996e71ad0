// Suspension points for tasks: wait until someone else on the engine's thread says go.
#pragma once

#include "engine/base/task.hpp"

#include <boost/asio/associated_executor.hpp>
#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>

#include <deque>
#include <functional>
#include <utility>

namespace weir {

/// Suspends the calling task and hands `park` a function that resumes it. The function must be called exactly
/// once, from the engine's thread, and not from inside `park` itself (post it).
template <class Park>
auto suspend_until(Park park) {
  return boost::asio::async_initiate<const boost::asio::use_awaitable_t<executor>, void()>(
      [](auto handler, Park parked) {
        parked(std::move_only_function<void()>(
            [handler = std::move(handler)]() mutable { std::move(handler)(); }));
      },
      use_task, std::move(park));
}

/// Broadcast: tasks wait, notify_all() resumes each of them through the executor. Waiters re-check their
/// condition, since it may have changed again by the time they run.
class async_event {
 public:
  explicit async_event(executor context) : executor_(std::move(context)) {}
  async_event(const async_event&) = delete;
  async_event& operator=(const async_event&) = delete;

  task<void> wait() {
    co_await suspend_until(
        [this](std::move_only_function<void()> resume) { waiters_.push_back(std::move(resume)); });
  }

  void notify_all() {
    std::deque<std::move_only_function<void()>> woken;
    woken.swap(waiters_);
    for (auto& resume : woken) boost::asio::post(executor_, std::move(resume));
  }

  bool has_waiters() const noexcept { return !waiters_.empty(); }

 private:
  executor executor_;
  std::deque<std::move_only_function<void()>> waiters_;
};

}  // namespace weir
