// L1 and L2 entries (images.md section 2). Pure.
//
// With extended L2 entries the second word tells each of the 32 subclusters apart: allocated (its bytes lie in
// the host cluster), reads as zero, or neither (ask the backing layer). The entry's own kind then only says
// what the host side is; what a subcluster reads as is subcluster_kind()'s answer.
#pragma once

#include "engine/base/endian.hpp"
#include "formats/qcow2/geometry.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>

namespace weir::qcow2 {

inline constexpr std::uint64_t copied_flag = std::uint64_t{1} << 63;
inline constexpr std::uint64_t compressed_flag = std::uint64_t{1} << 62;
inline constexpr std::uint64_t zero_flag = 1;
inline constexpr std::uint32_t all_subclusters = 0xffff'ffff;

/// An L2 entry as stored. The subcluster masks (bit n is subcluster n) are 0 without extended entries.
struct raw_l2_entry {
  std::uint64_t word = 0;
  std::uint32_t allocated = 0;
  std::uint32_t zeroes = 0;
  friend constexpr bool operator==(const raw_l2_entry&, const raw_l2_entry&) = default;
};

enum class entry_kind : std::uint8_t {
  unallocated,     ///< no host cluster; extended: subclusters may read as zero
  zero_plain,      ///< reads as zero, no host cluster
  zero_allocated,  ///< owns a host cluster, none of which is read
  data,            ///< extended: at least one subcluster is allocated
  compressed,
  invalid,  ///< contradicts the format
};

struct l2_entry {
  entry_kind kind = entry_kind::invalid;
  bool copied = false;            ///< refcount is exactly one: may be written in place
  std::uint64_t host_offset = 0;  ///< zero_allocated, data: aligned; compressed: any byte
  std::uint64_t host_length = 0;  ///< compressed: up to the end of the last sector
  std::uint32_t allocated = 0;    ///< extended: the subcluster masks
  std::uint32_t zeroes = 0;
};

/// What a one-word entry says. Offsets are checked for alignment, not against the file.
l2_entry decode_l2_entry(std::uint64_t raw, const geometry& shape) noexcept;
/// The same for an entry of either width.
l2_entry decode_l2_entry(const raw_l2_entry& raw, const geometry& shape) noexcept;

/// What subcluster `index` of a valid extended entry reads as: any kind but invalid.
entry_kind subcluster_kind(const l2_entry& entry, unsigned index) noexcept;

inline raw_l2_entry load_l2_entry(const std::byte* from, const geometry& shape) noexcept {
  raw_l2_entry raw{.word = load_big<std::uint64_t>(from)};
  if (shape.extended_l2) {
    raw.zeroes = load_big<std::uint32_t>(from + 8);
    raw.allocated = load_big<std::uint32_t>(from + 12);
  }
  return raw;
}

inline void store_l2_entry(std::byte* to, const raw_l2_entry& raw, const geometry& shape) noexcept {
  store_big(to, raw.word);
  if (shape.extended_l2) {
    store_big(to + 8, raw.zeroes);
    store_big(to + 12, raw.allocated);
  }
}

/// Host clusters that a decoded entry holds one reference on each: none in an external data file.
cluster_run referenced_clusters(const l2_entry& entry, const geometry& shape) noexcept;

inline std::uint64_t encode_data_entry(std::uint64_t host_offset) noexcept {
  return host_offset | copied_flag;
}

/// An entry for compressed bytes at `host`; nothing where they lie further back than entries can say.
/// Precondition: 0 < host.length < cluster size.
std::optional<std::uint64_t> encode_compressed_entry(byte_range host, const geometry& shape) noexcept;

/// L2 table offset of an L1 entry, 0 for none; empty where the entry is invalid.
std::optional<std::uint64_t> decode_l1_entry(std::uint64_t raw, const geometry& shape) noexcept;

}  // namespace weir::qcow2
