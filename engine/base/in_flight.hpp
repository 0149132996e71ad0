// In-flight ranges of one disk or storage: overlapping changes are serialised, everything else runs in parallel.
//
// A holder owns its range exclusively. Waiters are granted in arrival order among those that overlap, so no
// one starves: a newcomer also waits behind overlapping waiters. Lock order: a task holds at most one range
// of a disk; to widen one, release it, take the wider one, and look again at everything learnt before.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"

#include <functional>
#include <list>
#include <optional>
#include <utility>

namespace weir {

class in_flight_ranges {
  struct entry {
    byte_range range;
    bool granted = false;
    resumption resume;
  };
  using entries = std::list<entry>;

 public:
  /// Exclusive ownership of a range until destroyed.
  class hold {
   public:
    hold() = default;
    hold(hold&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), at_(other.at_) {}
    hold& operator=(hold&& other) noexcept;
    ~hold() { release(); }
    void release() noexcept;
    byte_range range() const noexcept { return owner_ != nullptr ? at_->range : byte_range{}; }

   private:
    friend class in_flight_ranges;
    hold(in_flight_ranges& owner, entries::iterator at) : owner_(&owner), at_(at) {}
    in_flight_ranges* owner_ = nullptr;
    entries::iterator at_;
  };

  explicit in_flight_ranges(executor context) : executor_(std::move(context)) {}
  in_flight_ranges(const in_flight_ranges&) = delete;
  in_flight_ranges& operator=(const in_flight_ranges&) = delete;

  /// Waits until nothing that overlaps `range` is held or waits earlier.
  task<hold> acquire(byte_range range);
  /// The same without waiting: empty if it would wait.
  std::optional<hold> try_acquire(byte_range range);

  std::size_t count() const noexcept { return entries_.size(); }

 private:
  bool is_clear(entries::const_iterator candidate) const noexcept;
  void release(entries::iterator held) noexcept;

  executor executor_;
  entries entries_;  // arrival order
};

}  // namespace weir
