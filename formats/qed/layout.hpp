// The numbers of a QED image (images.md section 4) and where its tables lie. Pure.
//
//   offset → l1_index → L1 entry: an L2 table → l2_index → L2 entry: a cluster
//
// The L1 table and every L2 table have the same size, table_size clusters. Tables are cached and written in
// slices of 4 KiB, the size of the smallest table.
#pragma once

#include "engine/base/range.hpp"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace weir::qed {

inline constexpr std::uint64_t entry_bytes = 8;
inline constexpr std::uint64_t sector_bytes = 512;
inline constexpr std::uint64_t slice_bytes = 4 * KiB;
inline constexpr std::uint64_t slice_entries = slice_bytes / entry_bytes;

/// L2 entries below the first possible cluster.
inline constexpr std::uint64_t unallocated_entry = 0;
inline constexpr std::uint64_t zero_entry = 1;

struct geometry {
  std::uint64_t cluster_bytes = 64 * KiB;  ///< a power of two, 4 KiB … 64 MiB
  std::uint64_t table_clusters = 4;        ///< 1, 2, 4, 8 or 16

  constexpr std::uint64_t table_bytes() const noexcept { return cluster_bytes * table_clusters; }
  constexpr std::uint64_t table_entries() const noexcept { return table_bytes() / entry_bytes; }
  /// Guest bytes that one L2 table maps, at most 2^53.
  constexpr std::uint64_t table_span() const noexcept { return table_entries() * cluster_bytes; }
  constexpr std::uint64_t l1_index(std::uint64_t offset) const noexcept { return offset / table_span(); }
  constexpr std::uint64_t l2_index(std::uint64_t offset) const noexcept {
    return offset % table_span() / cluster_bytes;
  }
  /// Entries of the L1 table that map something of a disk of `size` bytes; the rest mean nothing.
  constexpr std::uint64_t l1_entries(std::uint64_t size) const noexcept {
    return size / table_span() + (size % table_span() != 0 ? 1 : 0);
  }
  /// Entries in use of the L2 table at `l1_index`. Precondition: l1_index < l1_entries(size).
  constexpr std::uint64_t l2_entries(std::uint64_t index, std::uint64_t size) const noexcept {
    const std::uint64_t span = std::min(table_span(), size - index * table_span());
    return (span + cluster_bytes - 1) / cluster_bytes;
  }
  friend bool operator==(const geometry&, const geometry&) = default;
};

/// Where a table entry is cached.
struct entry_position {
  std::uint64_t slice = 0;  ///< file offset of its slice
  std::uint64_t index = 0;  ///< of the entry within the slice
};

constexpr entry_position entry_at(std::uint64_t table, std::uint64_t index) noexcept {
  return {table + index / slice_entries * slice_bytes, index % slice_entries};
}

/// What of the file is metadata, and what may therefore be guest data. Entries come from the disk: any value.
/// File lengths are at most 2^63-1.
class occupancy {
 public:
  /// Precondition: the L1 table lies inside the file, behind the header.
  occupancy(geometry shape, std::uint64_t header_bytes, std::uint64_t l1_offset)
      : shape_(shape), header_bytes_(header_bytes), l1_{l1_offset, shape.table_bytes()} {}

  const geometry& shape() const noexcept { return shape_; }
  std::uint64_t l1_offset() const noexcept { return l1_.offset; }

  /// True if an L2 table may lie there, as far as header, L1 table and the file's length tell. A last cluster
  /// that the file holds in part counts as inside.
  bool may_be_table(std::uint64_t offset, std::uint64_t file_bytes) const noexcept;
  /// The offsets of all L2 tables, one for each L1 entry, in any order. Precondition: may_be_table.
  void set_tables(std::vector<std::uint64_t> offsets);
  /// A new table at the end of the file. Precondition: behind all others.
  void append_table(std::uint64_t offset) { tables_.push_back(offset); }
  /// True if the table is recorded once and overlaps no other.
  bool is_sound_table(std::uint64_t offset) const noexcept;
  /// The first table that overlaps the next or is recorded twice.
  std::optional<std::uint64_t> find_aliased_table() const noexcept;
  /// True if an L2 entry that points there points to a cluster of guest data: inside the file and outside all
  /// metadata.
  bool may_be_data(std::uint64_t offset, std::uint64_t file_bytes) const noexcept;

 private:
  bool is_cluster(std::uint64_t offset, std::uint64_t file_bytes) const noexcept {
    return is_aligned(offset, shape_.cluster_bytes) && offset >= header_bytes_ && offset < file_bytes;
  }

  geometry shape_;
  std::uint64_t header_bytes_;
  byte_range l1_;
  std::vector<std::uint64_t> tables_;  // offsets of L2 tables, ascending
};

/// Hands out host clusters at the end of the file, which is the only place QED allocates.
class free_space {
 public:
  /// Precondition: `cluster_bytes` is a power of two and file_bytes rounded up to it fits 63 bits.
  free_space(std::uint64_t file_bytes, std::uint64_t cluster_bytes)
      : next_(align_up(file_bytes, cluster_bytes)), fresh_from_(next_) {}

  struct piece {
    byte_range host;
    bool is_fresh = false;  ///< nobody ever had it: it reads as zero, now and after a power loss
  };
  /// `length` bytes, or nothing if the file would become longer than files can be.
  std::optional<piece> take(std::uint64_t length) noexcept;
  /// The same, skipping what was given back.
  std::optional<piece> take_fresh(std::uint64_t length) noexcept;
  /// What is at the end is handed out again; anything else leaks, as there is no free list.
  void give_back(byte_range host) noexcept {
    if (host.end() == next_) next_ = host.offset;
  }

 private:
  std::uint64_t next_;
  std::uint64_t fresh_from_;
};

}  // namespace weir::qed
