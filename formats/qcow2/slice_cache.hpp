// Bounded cache of metadata slices (parts of L2 tables or of refcount blocks), with write-back.
//
// States of a slice
//   clean     the same bytes are on the storage; may be evicted
//   dirty     changed since; stays until a flush pass takes it
//   frozen    a pass is writing the bytes it had when the pass began. A change meanwhile copies the bytes
//             first, so that what belongs to the next pass never reaches the storage with this one; the slice
//             is then frozen and dirty. Stays until the pass settles it.
// Loads of one slice are serialised, so a slow load never brings back bytes older than a later write.
//
// Pointers and spans into a slice are valid until the caller's next suspension.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace weir::qcow2 {

/// Bytes a flush pass writes; they do not change under it.
struct frozen_bytes {
  std::uint64_t offset = 0;
  std::shared_ptr<std::vector<std::byte>> bytes;
};

class slice_cache {
 public:
  /// Keeps at most `limit_bytes` of clean slices beside the dirty ones, and a few slices in any case.
  slice_cache(executor context, storage& from, std::uint64_t slice_size, std::size_t limit_bytes);
  slice_cache(const slice_cache&) = delete;
  slice_cache& operator=(const slice_cache&) = delete;

  std::uint64_t slice_size() const noexcept { return slice_size_; }

  /// Bytes of the slice at `offset` (slice-aligned), or null if it is not cached. Never suspends.
  const std::byte* find(std::uint64_t offset) noexcept;
  /// The same for changing it: the slice becomes dirty.
  std::byte* find_for_change(std::uint64_t offset);
  /// Afterwards find(offset) answers, if nothing was awaited in between.
  task<result<void>> load(std::uint64_t offset);
  /// Puts a slice of zero bytes there, which is what the storage holds. Precondition: not cached.
  void insert_zero(std::uint64_t offset);
  /// Forgets the clean slices of a cluster that changes its use. Precondition: none of them is dirty.
  void forget(byte_range range);

  /// True when so much is dirty that the caller should flush before it adds more.
  bool is_crowded() const noexcept { return dirty_.size() * slice_size_ > limit_bytes_ / 2; }
  bool has_dirty() const noexcept { return !dirty_.empty(); }

  /// Takes all dirty slices, ascending by offset. Precondition: the previous pass is settled.
  std::vector<frozen_bytes> freeze();
  /// Ends the pass; slices it could not write are dirty again.
  void settle(bool written);

 private:
  struct slice {
    std::uint64_t offset = 0;
    std::shared_ptr<std::vector<std::byte>> bytes;
    bool dirty = false;
    bool frozen = false;
  };
  using slices = std::list<slice>;

  slice& insert(std::uint64_t offset, std::shared_ptr<std::vector<std::byte>> bytes);
  void evict();
  void forget(slices::iterator which);

  storage& storage_;
  std::uint64_t slice_size_;
  std::size_t limit_bytes_;
  slices recent_first_;
  std::unordered_map<std::uint64_t, slices::iterator> by_offset_;
  std::unordered_set<std::uint64_t> dirty_;
  std::vector<std::uint64_t> frozen_;
  std::unordered_set<std::uint64_t> loading_;
  async_event loaded_;
};

}  // namespace weir::qcow2
