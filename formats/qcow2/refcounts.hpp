// Reference counts of host clusters: the refcount table in memory, its blocks through a slice cache.
//
// Counts change in the cache only; a flush pass writes blocks before the table entries that point to them
// (formats/qcow2/flusher.hpp). A new block is zeroed on the storage when it is created, so that its slices may
// be loaded, evicted and written one by one like any other.
//
// Blocks and table describe themselves. A new block takes the first cluster of the gap it closes; when the
// table is full, a bigger one and the blocks for its own place are put together into the space behind
// everything the old table could describe.
//
// Not reentrant: callers hold the image's allocation lock across every call that may suspend.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "formats/qcow2/image_tables.hpp"

#include <cstdint>
#include <string_view>

namespace weir::qcow2 {

class refcounts {
 public:
  refcounts(executor context, image_tables& tables, std::size_t cache_bytes);

  /// Reads the table and checks it against the image: blocks aligned, in the file, named once, apart from
  /// all other metadata. Fills the metadata map's refcount_blocks.
  task<outcome<void>> load(std::string_view location);

  bool covers(std::uint64_t cluster) const noexcept {
    const std::uint64_t index = cluster / shape_.refcounts_per_block();
    return index < table_.size() && block_offset(index) != 0;
  }

  /// 0 where no block describes the cluster.
  task<result<std::uint64_t>> get(std::uint64_t cluster);
  /// Precondition: covers(cluster), value <= highest_refcount().
  task<result<void>> set(std::uint64_t cluster, std::uint64_t value);
  /// Sets every count of a covered run.
  task<result<void>> set_run(cluster_run run, std::uint64_t value);
  /// First run of at most `most` free clusters at or after `from`, before the end of `from`'s block. Empty
  /// (first = the block's end) if there is none. Precondition: covers(from).
  task<result<cluster_run>> find_free(std::uint64_t from, std::uint64_t most);

  /// Makes covers(cluster) true by placing a block at `cluster` or, where the table is full, a new table and
  /// blocks from `cluster` on. Precondition: !covers(cluster), which is behind everything the table
  /// describes if the table is full. Returns the clusters taken, and in `replaced` the old table's.
  /// Errors: ENOSPC; corrupt_image if the place is metadata already.
  struct growth {
    cluster_run taken;
    cluster_run replaced_table;
  };
  task<result<growth>> cover(std::uint64_t cluster);
  /// Covers `count` clusters, none of them used, behind the clusters taken, which lie behind everything described
  /// so far.
  task<result<growth>> cover_beyond(std::uint64_t count);

  // For flush passes.
  slice_cache& cache() noexcept { return cache_; }
  entry_table& table() noexcept { return table_; }
  /// Table location that the header must name, while it differs from what the header says.
  bool table_has_moved() const noexcept { return table_.offset() != tables_.head.refcount_table_offset; }
  std::uint32_t table_clusters() const noexcept {
    return static_cast<std::uint32_t>(shape_.clusters_for(table_.size() * entry_bytes));
  }

 private:
  struct growth_plan {
    std::uint64_t table_clusters;
    std::uint64_t blocks;
    friend bool operator==(const growth_plan&, const growth_plan&) = default;
  };

  std::uint64_t block_offset(std::uint64_t index) const noexcept { return table_[index] & offset_mask; }
  std::uint64_t slice_of(std::uint64_t cluster) const noexcept;
  std::uint64_t index_in_slice(std::uint64_t cluster) const noexcept {
    return cluster % shape_.refcounts_per_slice();
  }
  task<result<void>> fetch(std::uint64_t slice);
  void adopt_blocks(std::uint64_t first_index, std::uint64_t count, std::uint64_t at_cluster);
  void count_fresh(cluster_run run);
  growth_plan plan_growth(std::uint64_t cluster, std::uint64_t more) const;
  task<result<growth>> add_block(std::uint64_t cluster);
  task<result<growth>> grow(std::uint64_t cluster, std::uint64_t more);
  result<void> check_place(cluster_run run) const;

  image_tables& tables_;
  const geometry& shape_;
  slice_cache cache_;
  entry_table table_;
};

/// Writes zeros to a range of the storage.
task<result<void>> write_zeros(storage& into, byte_range range);

}  // namespace weir::qcow2
