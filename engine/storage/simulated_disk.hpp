// A disk as bad as the contract of storage permits, for tests of crash safety and faults.
//
// The disk keeps two contents: what readers see, and what is durable, plus the log of changes that lie
// between. A flush moves the changes that had been answered before the flush was issued to the durable
// content. A power loss leaves the durable content and, of everything else, any part in any order, cut at
// 512-byte sectors.
//
// A typical test of "no write boundary loses data":
//
//   for (std::uint64_t cut = 0;; ++cut) {
//     power_supply power;
//     simulated_disk disk(0, power);
//     power.cut_after(cut);
//     … run the work on a simulated_storage of `disk`, remember what was flushed …
//     const bool finished = power.on();
//     for (std::uint64_t seed = 0; seed < 8; ++seed) {
//       simulated_disk survivor = disk.after_power_loss(seed);
//       … open it, compare …
//     }
//     if (finished) break;
//   }
//
// One thread. A disk outlives the storages opened on it; its power supply outlives it.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/storage/sparse_bytes.hpp"

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <span>
#include <vector>

namespace weir {

/// Feeds disks: they all lose power at once. Counts operations that change or flush a disk.
class power_supply {
 public:
  bool on() const noexcept { return on_; }
  /// Changes and flushes that reached a disk so far, over all disks.
  std::uint64_t operation_count() const noexcept { return operation_count_; }
  /// `count` more changes or flushes succeed. The one after them may happen in part and fails, as does all
  /// that follows.
  void cut_after(std::uint64_t count) noexcept { left_ = count; }
  void cut() noexcept { on_ = false; }

 private:
  friend class simulated_disk;
  bool spend() noexcept;

  bool on_ = true;
  std::uint64_t operation_count_ = 0;
  std::optional<std::uint64_t> left_;
};

enum class disk_operation : std::uint8_t { read, write, zero, discard, truncate, flush };

/// A fault to come. Ranged operations match when they touch `where`; truncate and flush match any range.
struct disk_fault {
  std::optional<disk_operation> operation;  ///< any, if not given
  byte_range where{0, std::numeric_limits<std::uint64_t>::max()};
  std::uint64_t skip_count = 0;  ///< matching operations to let pass first
  std::uint64_t count = 1;       ///< then this many fail
  int error_number = EIO;
};

struct disk_change {
  disk_operation kind;          ///< write, zero, discard or truncate
  byte_range range;             ///< truncate: the new length is range.offset
  std::vector<std::byte> data;  ///< write
  bool keep_allocated = false;  ///< zero
};

class simulated_disk {
 public:
  static constexpr std::uint64_t sector_bytes = 512;
  static constexpr std::uint64_t page_bytes = 4096;  ///< unit of holes and of capacity

  /// A disk of `size` durable zero bytes, on a supply of its own that is never cut.
  explicit simulated_disk(std::uint64_t size = 0) : simulated_disk(size, nullptr) {}
  simulated_disk(std::uint64_t size, power_supply& power) : simulated_disk(size, &power) {}

  std::uint64_t size() const noexcept { return visible_.size(); }
  /// What readers see and what is durable, for the test's own look: no faults, not counted.
  const sparse_bytes& visible() const noexcept { return visible_; }
  const sparse_bytes& durable() const noexcept { return durable_; }
  std::size_t unsynced_count() const noexcept { return log_.size(); }
  /// Puts durable bytes there, growing the disk: no faults, not counted. Precondition: nothing is unsynced.
  void load(std::uint64_t offset, std::span<const std::byte> data);
  /// Makes everything durable, as an orderly shutdown would. Not counted.
  void settle_all();

  /// The disk that comes up after a power loss now, fed by a supply of its own that is never cut (or by
  /// `power`). Seed 0 loses everything unsynced, 1 keeps everything in order; any other draws for each change
  /// whether it is lost, kept or torn, and the order of those that overlap.
  simulated_disk after_power_loss(std::uint64_t seed) const;
  simulated_disk after_power_loss(std::uint64_t seed, power_supply& power) const;

  void inject(const disk_fault& fault) { faults_.push_back(fault); }
  void clear_faults() noexcept { faults_.clear(); }
  /// Fails about this many in a million operations with EIO. A change that fails may have happened in part.
  void set_error_rate(std::uint32_t errors_per_million, std::uint64_t seed);
  /// Writes and allocating zeros that need more memory than this fail with ENOSPC, having happened in part.
  void set_capacity(std::uint64_t bytes) noexcept { capacity_bytes_ = bytes; }

  // What storages call.

  /// True while the disk has power; an operation remembers it from its start to its effect.
  bool powered() const noexcept { return power_ == nullptr || power_->on(); }
  result<void> read(std::uint64_t offset, std::span<std::byte> buffer);
  /// Does the change. `was_powered` tells whether there was power when the operation was issued: if it went
  /// since, the change fails but may survive in part. Returns a ticket.
  result<std::uint64_t> change(disk_change what, bool was_powered);
  /// The change was answered: flushes issued from now on cover it.
  void answered(std::uint64_t ticket);
  /// Marks the start of a flush; finish it with flush().
  std::uint64_t issue_flush() const noexcept { return answer_count_; }
  result<void> flush(std::uint64_t issued);

 private:
  struct logged_change {
    disk_change what;
    std::uint64_t ticket = 0;
    std::uint64_t answer = 0;  ///< place among all answers; 0: not answered
  };

  simulated_disk(std::uint64_t size, power_supply* power);

  int drawn_error(disk_operation kind, byte_range where);
  simulated_disk survivor(std::uint64_t seed, power_supply* power) const;

  power_supply* power_;
  sparse_bytes visible_;
  sparse_bytes durable_;
  std::vector<logged_change> log_;  // what visible_ has and durable_ may lack, oldest first
  std::uint64_t ticket_count_ = 0;
  std::uint64_t answer_count_ = 0;
  std::vector<disk_fault> faults_;
  std::uint32_t errors_per_million_ = 0;
  std::minstd_rand random_;
  std::uint64_t capacity_bytes_ = std::numeric_limits<std::uint64_t>::max();
};

}  // namespace weir
