// A table of 64-bit offsets held in memory and written back by sectors: the L1 table, the refcount table.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"
#include "formats/qcow2/geometry.hpp"
#include "formats/qcow2/slice_cache.hpp"

#include <algorithm>
#include <cstdint>
#include <set>
#include <vector>

namespace weir::qcow2 {

class entry_table {
 public:
  entry_table() = default;
  explicit entry_table(std::uint64_t offset) : offset_(offset) {}

  /// Reads `count` entries at the table's offset. Precondition: the caller has bounded the count.
  task<result<void>> load(storage& from, std::uint64_t count);

  std::uint64_t offset() const noexcept { return offset_; }
  std::uint64_t size() const noexcept { return entries_.size(); }
  std::uint64_t operator[](std::uint64_t index) const noexcept { return entries_[index]; }
  const std::vector<std::uint64_t>& entries() const noexcept { return entries_; }

  /// Entries that the table on the storage lacks read as 0. Precondition: the table will not be written.
  void pad(std::uint64_t count) { entries_.resize(static_cast<std::size_t>(std::max(count, size())), 0); }

  void set(std::uint64_t index, std::uint64_t value);
  /// The table moves to `offset` and gets `count` entries, new ones zero; all of it is dirty.
  void move(std::uint64_t offset, std::uint64_t count);
  bool has_dirty() const noexcept { return !dirty_sectors_.empty(); }

  /// Takes the dirty sectors as they are now, joined where they are adjacent.
  std::vector<frozen_bytes> freeze();
  /// Ends a pass; what it could not write is dirty again.
  void settle(bool written);

 private:
  std::uint64_t offset_ = 0;
  std::vector<std::uint64_t> entries_;
  std::set<std::uint64_t> dirty_sectors_;
  std::set<std::uint64_t> frozen_sectors_;
};

}  // namespace weir::qcow2
