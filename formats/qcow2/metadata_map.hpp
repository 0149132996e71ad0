// Where the image's own metadata lies, so that no guest cluster and no new cluster is ever taken from it.
#pragma once

#include "engine/base/range.hpp"
#include "formats/qcow2/geometry.hpp"

#include <cstdint>
#include <optional>
#include <vector>

namespace weir::qcow2 {

/// A set of single clusters by offset. Additions at the end are cheap; others move the tail.
class cluster_set {
 public:
  cluster_set() = default;
  /// Any order; returns through has_duplicates() whether a cluster was named twice.
  explicit cluster_set(std::vector<std::uint64_t> offsets);

  bool has_duplicates() const noexcept { return has_duplicates_; }
  void insert(std::uint64_t offset);
  void erase(std::uint64_t offset);
  /// Many at once, in any order.
  void erase(std::vector<std::uint64_t> offsets);
  bool contains(std::uint64_t offset) const noexcept;
  /// Lowest member in [from, end).
  std::optional<std::uint64_t> first_in(std::uint64_t from, std::uint64_t end) const noexcept;
  const std::vector<std::uint64_t>& offsets() const noexcept { return offsets_; }

 private:
  std::vector<std::uint64_t> offsets_;  // ascending
  bool has_duplicates_ = false;
};

class metadata_map {
 public:
  byte_range header;  ///< whole clusters, as all of these
  byte_range l1;
  byte_range refcount_table;
  byte_range snapshots;
  cluster_set l2_tables;
  cluster_set refcount_blocks;

  /// Length of the longest prefix of `range` (whole clusters) that touches no metadata.
  std::uint64_t clear_prefix(byte_range range) const noexcept;
  /// Touches anything but L2 tables: what an L2 table may not do.
  bool hits_other_than_l2(byte_range range) const noexcept;
};

}  // namespace weir::qcow2
