// The numbers that a qcow2 header fixes (images.md section 2). Pure.
#pragma once

#include "engine/base/range.hpp"

#include <algorithm>
#include <cstdint>

namespace weir::qcow2 {

/// Entry of an L1 or refcount table; L2 entries: geometry::l2_entry_bytes().
inline constexpr std::uint64_t entry_bytes = 8;
inline constexpr std::uint64_t sector_bytes = 512;
/// Parts of a cluster with extended L2 entries: log2 of their number.
inline constexpr unsigned subcluster_count_bits = 5;
inline constexpr unsigned smallest_extended_cluster_bits = 14;
/// Bits 9-55 of every table entry: where a cluster lies.
inline constexpr std::uint64_t offset_mask = 0x00ff'ffff'ffff'fe00;
/// Limits of images.md section 1.
inline constexpr std::uint64_t largest_l1_bytes = 32 * MiB;
inline constexpr std::uint64_t largest_refcount_table_bytes = 8 * MiB;

struct geometry {
  unsigned version = 3;
  unsigned cluster_bits = 16;
  unsigned refcount_order = 4;
  bool external_data = false;  ///< guest data lies in a file of its own, at its guest offset, uncounted
  bool extended_l2 = false;    ///< 16-byte L2 entries: 32 subclusters to a cluster

  constexpr std::uint64_t cluster_size() const noexcept { return std::uint64_t{1} << cluster_bits; }
  /// What is allocated and copied as one: a subcluster, or a cluster where there are none.
  constexpr unsigned grain_bits() const noexcept {
    return extended_l2 ? cluster_bits - subcluster_count_bits : cluster_bits;
  }
  constexpr std::uint64_t grain_size() const noexcept { return std::uint64_t{1} << grain_bits(); }
  constexpr std::uint64_t subcluster_count() const noexcept {
    return extended_l2 ? std::uint64_t{1} << subcluster_count_bits : 1;
  }
  constexpr std::uint64_t l2_entry_bytes() const noexcept { return extended_l2 ? 16 : 8; }
  /// Entries of one L2 table, as a power of two.
  constexpr unsigned table_entries_bits() const noexcept { return cluster_bits - (extended_l2 ? 4 : 3); }
  constexpr std::uint64_t table_entries() const noexcept { return std::uint64_t{1} << table_entries_bits(); }
  /// Guest bytes that one L2 table maps.
  constexpr std::uint64_t table_span() const noexcept { return table_entries() << cluster_bits; }
  /// Metadata is cached in slices: 4 KiB, or a cluster where that is smaller.
  constexpr std::uint64_t slice_size() const noexcept {
    return std::min<std::uint64_t>(4 * KiB, cluster_size());
  }
  constexpr std::uint64_t slice_entries() const noexcept { return slice_size() / l2_entry_bytes(); }

  constexpr std::uint64_t refcounts_in(std::uint64_t bytes) const noexcept {
    return bytes * 8 >> refcount_order;
  }
  constexpr std::uint64_t refcounts_per_block() const noexcept { return refcounts_in(cluster_size()); }
  constexpr std::uint64_t refcounts_per_slice() const noexcept { return refcounts_in(slice_size()); }
  constexpr std::uint64_t highest_refcount() const noexcept {
    const unsigned bits = 1U << refcount_order;
    return bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
  }

  constexpr std::uint64_t cluster_of(std::uint64_t offset) const noexcept { return offset >> cluster_bits; }
  constexpr std::uint64_t offset_of(std::uint64_t cluster) const noexcept { return cluster << cluster_bits; }
  constexpr std::uint64_t clusters_for(std::uint64_t bytes) const noexcept {
    return bytes / cluster_size() + (bytes % cluster_size() != 0 ? 1 : 0);
  }
};

/// A run of host clusters, by index.
struct cluster_run {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
  constexpr std::uint64_t end() const noexcept { return first + count; }
  friend constexpr bool operator==(cluster_run, cluster_run) = default;
};

}  // namespace weir::qcow2
