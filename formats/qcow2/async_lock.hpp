// Mutual exclusion between tasks of one thread: first come, first served.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/task.hpp"

#include <deque>
#include <functional>
#include <utility>

namespace weir::qcow2 {

class async_lock {
 public:
  class guard {
   public:
    guard() = default;
    explicit guard(async_lock& owner) : owner_(&owner) {}
    guard(guard&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)) {}
    guard& operator=(guard&& other) noexcept {
      if (this != &other) {
        release();
        owner_ = std::exchange(other.owner_, nullptr);
      }
      return *this;
    }
    ~guard() { release(); }
    void release() noexcept {
      if (owner_ != nullptr) std::exchange(owner_, nullptr)->pass_on();
    }

   private:
    async_lock* owner_ = nullptr;
  };

  explicit async_lock(executor context) : executor_(std::move(context)) {}
  async_lock(const async_lock&) = delete;
  async_lock& operator=(const async_lock&) = delete;

  task<guard> acquire() {
    if (held_) {
      co_await suspend_until([this](resumption resume) { waiters_.push_back(std::move(resume)); });
    }
    held_ = true;
    co_return guard(*this);
  }

 private:
  // The lock stays held while it passes to the next waiter, so that no newcomer slips in between.
  void pass_on() noexcept {
    if (waiters_.empty()) {
      held_ = false;
      return;
    }
    resumption resume = std::move(waiters_.front());
    waiters_.pop_front();
    run_later(executor_, std::move(resume));
  }

  executor executor_;
  bool held_ = false;
  std::deque<resumption> waiters_;
};

}  // namespace weir::qcow2
