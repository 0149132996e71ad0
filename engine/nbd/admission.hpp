// How much clients may have in the engine: a request counts from its parsing, before its payload has arrived, until
// its reply is sent. Where a limit
// is reached the connection stops reading, so a peer that never reads its replies costs a constant.
//
// Two limits: each connection's own, and one for all connections of a server. Peers that do not read may use up the
// common one; so whatever they do, every connection may have one request of usual length in flight.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/task.hpp"

#include <cstdint>

namespace weir::nbd {

struct admission_limits {
  unsigned requests = 128;
  std::uint64_t bytes = std::uint64_t{16} << 20;  ///< payloads in and out; a longer request is admitted alone
};

/// The common limit.
class shared_admission {
 public:
  shared_admission(executor context, std::uint64_t most_bytes)
      : most_bytes_(most_bytes), left_(std::move(context)) {}

  bool has_room(std::uint64_t bytes) const noexcept { return bytes_ == 0 || bytes_ + bytes <= most_bytes_; }
  task<void> wait_for_change() { co_await left_.wait(); }

  void enter(std::uint64_t bytes) noexcept { bytes_ += bytes; }
  void leave(std::uint64_t bytes) {
    bytes_ -= bytes;
    if (left_.has_waiters()) left_.notify_all();
  }
  /// Waiters look again whether they still want to wait.
  void wake_waiters() { left_.notify_all(); }

  std::uint64_t bytes() const noexcept { return bytes_; }

 private:
  std::uint64_t most_bytes_;
  std::uint64_t bytes_ = 0;
  async_event left_;
};

/// One connection's.
class admission {
 public:
  /// A request up to this length is admitted to an idle connection whatever others have in flight.
  static constexpr std::uint64_t always_admitted_bytes = std::uint64_t{2} << 20;

  admission(executor context, admission_limits limits, shared_admission& shared)
      : limits_(limits), shared_(shared), left_(std::move(context)) {}

  bool has_room(std::uint64_t bytes) const noexcept {
    return fits_own(bytes) && (shared_.has_room(bytes) || (requests_ == 0 && bytes <= always_admitted_bytes));
  }
  /// Suspends until there may be room; look again.
  task<void> wait_for_change(std::uint64_t bytes) {
    if (!fits_own(bytes)) co_return co_await left_.wait();
    co_await shared_.wait_for_change();
  }

  void enter(std::uint64_t bytes) noexcept {
    ++requests_;
    bytes_ += bytes;
    shared_.enter(bytes);
  }
  void leave(std::uint64_t bytes) {
    --requests_;
    bytes_ -= bytes;
    if (left_.has_waiters()) left_.notify_all();
    shared_.leave(bytes);
  }

  unsigned requests() const noexcept { return requests_; }

 private:
  bool fits_own(std::uint64_t bytes) const noexcept {
    return requests_ < limits_.requests && (bytes_ == 0 || bytes_ + bytes <= limits_.bytes);
  }

  admission_limits limits_;
  shared_admission& shared_;
  async_event left_;
  unsigned requests_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace weir::nbd
