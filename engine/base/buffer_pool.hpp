// Pooled I/O buffers. A fresh 1 MiB allocation costs hundreds of times a pooled one, and waiting for a lease
// is the engine's back-pressure: the pool's limit bounds all data in flight.
#pragma once

#include "engine/base/task.hpp"

#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace weir {

class buffer_pool;

/// A buffer on loan, 4 KiB-aligned; returns to its pool when destroyed. Contents are undefined at first.
/// The pool must outlive it.
class buffer_lease {
 public:
  buffer_lease() = default;
  buffer_lease(buffer_lease&& other) noexcept
      : pool_(std::exchange(other.pool_, nullptr)),
        data_(std::exchange(other.data_, nullptr)),
        length_(std::exchange(other.length_, 0)) {}
  buffer_lease& operator=(buffer_lease&& other) noexcept;
  ~buffer_lease() { reset(); }

  std::span<std::byte> bytes() const noexcept { return {data_, length_}; }
  std::byte* data() const noexcept { return data_; }
  std::size_t size() const noexcept { return length_; }
  void reset() noexcept;

 private:
  friend class buffer_pool;
  buffer_lease(buffer_pool& pool, std::byte* data, std::size_t length)
      : pool_(&pool), data_(data), length_(length) {}

  buffer_pool* pool_ = nullptr;
  std::byte* data_ = nullptr;
  std::size_t length_ = 0;
};

/// Not thread-safe: leases are taken and returned on the engine's thread.
class buffer_pool {
 public:
  static constexpr std::size_t alignment = 4096;
  static constexpr std::size_t largest_lease = std::size_t{64} << 20;
  /// What returned leases may keep for the next ones; more is given back to the system.
  static constexpr std::size_t most_kept_bytes = std::size_t{128} << 20;

  /// `limit_bytes` bounds the sum of all leases; a single lease larger than the limit is granted alone.
  buffer_pool(executor context, std::size_t limit_bytes);
  ~buffer_pool();
  buffer_pool(const buffer_pool&) = delete;
  buffer_pool& operator=(const buffer_pool&) = delete;

  /// Waits, first come first served, until `length` bytes may be lent. Precondition: 0 < length <=
  /// largest_lease. A holder of a lease that acquires another may deadlock with its peers; take what an
  /// operation needs at once.
  task<buffer_lease> acquire(std::size_t length);
  /// The same without waiting: empty if it would wait.
  std::optional<buffer_lease> try_acquire(std::size_t length);

  std::size_t lent_bytes() const noexcept { return lent_bytes_; }
  std::size_t kept_bytes() const noexcept { return kept_bytes_; }

 private:
  friend class buffer_lease;
  static constexpr std::size_t class_count = 15;  // 4 KiB << 0 … 4 KiB << 14

  struct waiter {
    std::size_t length;
    resumption resume;
  };

  bool may_lend(std::size_t length) const noexcept;
  buffer_lease lend(std::size_t length);
  void give_back(std::byte* data, std::size_t length) noexcept;
  void wake();

  executor executor_;
  std::size_t limit_bytes_;
  std::size_t lent_bytes_ = 0;
  std::size_t kept_bytes_ = 0;
  std::array<std::vector<std::byte*>, class_count> free_;
  std::deque<waiter> waiters_;
};

}  // namespace weir
