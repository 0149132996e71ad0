// A gate counts the operations inside and can be shut: drain() keeps newcomers outside and waits until the
// last one has left, so that what they use may be changed or destroyed.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/task.hpp"

#include <cassert>
#include <cstdint>
#include <utility>

namespace weir {

class gate {
 public:
  class pass {
   public:
    pass() = default;
    pass(pass&& other) noexcept : gate_(std::exchange(other.gate_, nullptr)) {}
    pass& operator=(pass&& other) noexcept {
      if (this != &other) {
        leave();
        gate_ = std::exchange(other.gate_, nullptr);
      }
      return *this;
    }
    ~pass() { leave(); }
    void leave() noexcept {
      if (gate_ != nullptr) std::exchange(gate_, nullptr)->leave();
    }

   private:
    friend class gate;
    explicit pass(gate& owner) : gate_(&owner) {}
    gate* gate_ = nullptr;
  };

  explicit gate(executor context) : changed_(std::move(context)) {}
  ~gate() { assert(inside_ == 0); }

  /// Waits while the gate is shut.
  task<pass> enter() {
    while (shut_count_ > 0) co_await changed_.wait();
    ++inside_;
    co_return pass(*this);
  }

  /// Enters without waiting; false if the gate is shut.
  bool try_enter(pass& into) {
    if (shut_count_ > 0) return false;
    ++inside_;
    into = pass(*this);
    return true;
  }

  /// Shuts the gate and waits until no one is inside. Nests: each drain() needs its own reopen().
  task<void> drain() {
    ++shut_count_;
    while (inside_ > 0) co_await changed_.wait();
  }

  void reopen() {
    assert(shut_count_ > 0);
    if (--shut_count_ == 0) changed_.notify_all();
  }

  std::uint64_t inside() const noexcept { return inside_; }

 private:
  void leave() noexcept {
    assert(inside_ > 0);
    if (--inside_ == 0) changed_.notify_all();
  }

  async_event changed_;
  std::uint64_t inside_ = 0;
  unsigned shut_count_ = 0;
};

}  // namespace weir
