// Persistent dirty bitmaps on disk (images.md section 2): parsing hostile bytes, laying out new ones. Pure.
//
// A header extension says where the directory is and how many entries it has; an entry names a bitmap and its
// table; the table's entries name clusters of bits, or say that all bits of a cluster are clear or set. Bit 0 of a
// byte is the lowest granule.
//
// All of it counts only while bitmaps_bit of the header's autoclear field is set.
//
// As with snapshots, damage that makes the rest unreadable fails the parse, and what concerns one bitmap alone is
// found by bitmap_fault.
#pragma once

#include "engine/base/error.hpp"
#include "formats/qcow2/geometry.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weir::qcow2 {

inline constexpr std::uint32_t bitmaps_extension_type = 0x2385'2875;
inline constexpr std::uint64_t bitmaps_bit = 1;  ///< autoclear: the bitmaps are consistent with the data
inline constexpr std::uint64_t bitmaps_extension_bytes = 24;
inline constexpr std::uint64_t bitmap_head_bytes = 24;

// images.md section 2; the size limits are QEMU's.
inline constexpr std::uint32_t most_bitmaps = 65535;
inline constexpr std::uint64_t largest_bitmap_directory_bytes = std::uint64_t{1024} * most_bitmaps;
inline constexpr std::uint64_t longest_bitmap_name = 1023;
inline constexpr unsigned lowest_granularity_bits = 9;
inline constexpr unsigned highest_granularity_bits = 31;
inline constexpr std::uint64_t largest_bitmap_bytes = 512 * MiB;

namespace bitmap_flag {
inline constexpr std::uint32_t in_use = 1U << 0;     ///< not stored since it changed: its bits mean nothing
inline constexpr std::uint32_t automatic = 1U << 1;  ///< records changes
inline constexpr std::uint32_t extra_data_compatible = 1U << 2;
inline constexpr std::uint32_t known = in_use | automatic | extra_data_compatible;
}  // namespace bitmap_flag

/// What the header extension says.
struct bitmaps_place {
  std::uint32_t count = 0;
  byte_range directory;
  friend bool operator==(const bitmaps_place&, const bitmaps_place&) = default;
};

struct bitmap_entry {
  std::uint64_t table_offset = 0;
  std::uint32_t table_count = 0;  ///< entries, 8 bytes each
  std::uint32_t flags = 0;
  std::uint8_t type = 1;  ///< 1: dirty bitmap
  std::uint8_t granularity_bits = 16;
  std::string name = {};
  std::vector<std::byte> extra = {};
  friend bool operator==(const bitmap_entry&, const bitmap_entry&) = default;
};

/// `data` is the extension without type, length and padding. Errors: lengths, limits, a directory outside the
/// file or unaligned.
outcome<bitmaps_place> parse_bitmaps_extension(std::span<const std::byte> data, const geometry& shape,
                                               std::uint64_t file_size, std::string_view location);
/// Precondition: bitmaps_extension_bytes.
void lay_out_bitmaps_extension(std::span<std::byte> data, const bitmaps_place& place);

/// Exactly `count` entries that fill `directory` exactly.
outcome<std::vector<bitmap_entry>> parse_bitmap_directory(std::span<const std::byte> directory,
                                                          std::uint32_t count, std::string_view location);
std::vector<std::byte> lay_out_bitmap_directory(std::span<const bitmap_entry> entries);
/// Bytes of an entry in the directory, padding included.
std::uint64_t bitmap_entry_length(const bitmap_entry& entry) noexcept;
/// Offset of the 4 bytes of flags inside an entry.
inline constexpr std::uint64_t bitmap_flags_at = 12;

/// What the bits of a bitmap depend on.
struct bitmap_limits {
  geometry shape;
  std::uint64_t virtual_size = 0;
  std::uint64_t file_size = 0;
};

/// Clusters of bits that a disk of this size needs.
std::uint64_t bitmap_table_count(std::uint64_t virtual_size, unsigned granularity_bits,
                                 const geometry& shape) noexcept;
/// Why this bitmap's bits cannot be read; empty if they can. In-use bitmaps are not looked at any closer.
std::string bitmap_fault(const bitmap_entry& entry, const bitmap_limits& limits);

enum class bitmap_cluster : std::uint8_t { clear, set, stored, invalid };

struct bitmap_table_entry {
  bitmap_cluster kind = bitmap_cluster::invalid;
  std::uint64_t host_offset = 0;  ///< stored
};

/// What an entry of a bitmap's table says. Offsets are checked for alignment, not against the file.
bitmap_table_entry decode_bitmap_table_entry(std::uint64_t raw, const geometry& shape) noexcept;
inline constexpr std::uint64_t all_bits_set_entry = 1;

}  // namespace weir::qcow2
