// How much one connection may have in the engine: a request counts from its parsing until its reply is sent.
// When the limit is reached the connection stops reading, so a peer that never reads its replies costs a
// constant.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/task.hpp"

#include <cstdint>

namespace weir::nbd {

struct admission_limits {
  unsigned requests = 128;
  std::uint64_t bytes = std::uint64_t{16} << 20;  ///< payloads in and out; a longer request is admitted alone
};

class admission {
 public:
  admission(executor context, admission_limits limits) : limits_(limits), left_(std::move(context)) {}

  bool has_room(std::uint64_t bytes) const noexcept {
    return requests_ < limits_.requests && (bytes_ == 0 || bytes_ + bytes <= limits_.bytes);
  }
  task<void> wait_for_room(std::uint64_t bytes) {
    while (!has_room(bytes)) co_await left_.wait();
  }

  void enter(std::uint64_t bytes) noexcept {
    ++requests_;
    bytes_ += bytes;
  }
  void leave(std::uint64_t bytes) {
    --requests_;
    bytes_ -= bytes;
    if (left_.has_waiters()) left_.notify_all();
  }

  unsigned requests() const noexcept { return requests_; }

 private:
  admission_limits limits_;
  async_event left_;
  unsigned requests_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace weir::nbd
