// L1 and L2 entries (images.md section 2). Pure.
#pragma once

#include "formats/qcow2/geometry.hpp"

#include <cstdint>
#include <optional>

namespace weir::qcow2 {

inline constexpr std::uint64_t copied_flag = std::uint64_t{1} << 63;
inline constexpr std::uint64_t compressed_flag = std::uint64_t{1} << 62;
inline constexpr std::uint64_t zero_flag = 1;

enum class entry_kind : std::uint8_t {
  unallocated,
  zero_plain,      ///< reads as zero, no host cluster
  zero_allocated,  ///< reads as zero, owns a host cluster
  data,
  compressed,
  invalid,  ///< contradicts the format
};

struct l2_entry {
  entry_kind kind = entry_kind::invalid;
  bool copied = false;            ///< refcount is exactly one: may be written in place
  std::uint64_t host_offset = 0;  ///< zero_allocated, data: aligned; compressed: any byte
  std::uint64_t host_length = 0;  ///< compressed: up to the end of the last sector
};

/// What `raw` says. Offsets are checked for alignment, not against the file.
l2_entry decode_l2_entry(std::uint64_t raw, const geometry& shape) noexcept;

/// Host clusters that a decoded entry holds one reference on each.
cluster_run referenced_clusters(const l2_entry& entry, const geometry& shape) noexcept;

inline std::uint64_t encode_data_entry(std::uint64_t host_offset) noexcept {
  return host_offset | copied_flag;
}

/// L2 table offset of an L1 entry, 0 for none; empty where the entry is invalid.
std::optional<std::uint64_t> decode_l1_entry(std::uint64_t raw, const geometry& shape) noexcept;

}  // namespace weir::qcow2
