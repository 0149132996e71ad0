// The qcow2 header and its extensions (images.md section 1): parsing hostile bytes, laying out new ones. Pure.
//
// Everything lives in cluster 0: the fixed fields, header_length bytes in all; then the extensions; then the
// backing file name, wherever backing_offset says.
#pragma once

#include "engine/base/error.hpp"
#include "engine/block/image.hpp"
#include "formats/qcow2/geometry.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weir::qcow2 {

inline constexpr std::uint32_t magic = 0x5146'49fb;

/// Where the fields lie that are rewritten one by one.
namespace field {
inline constexpr std::uint64_t backing_offset = 8;
/// With count and place of the L1 table behind it: 24 bytes of one sector.
inline constexpr std::uint64_t virtual_size = 24;
inline constexpr std::uint64_t l1_count = 36;
inline constexpr std::uint64_t l1_offset = 40;
inline constexpr std::uint64_t refcount_table = 48;  ///< offset and cluster count: 12 bytes of one sector
inline constexpr std::uint64_t snapshots = 60;       ///< count and offset: 12 bytes of one sector
inline constexpr std::uint64_t incompatible = 72;
inline constexpr std::uint64_t autoclear = 88;
}  // namespace field

namespace incompatible_bit {
inline constexpr std::uint64_t dirty = 1U << 0;
inline constexpr std::uint64_t corrupt = 1U << 1;
inline constexpr std::uint64_t data_file = 1U << 2;
inline constexpr std::uint64_t compression_type = 1U << 3;
inline constexpr std::uint64_t extended_l2 = 1U << 4;
}  // namespace incompatible_bit

inline constexpr std::uint64_t lazy_refcounts_bit = 1;

namespace autoclear_bit {
/// The external data file, read as raw, is the guest's disk.
inline constexpr std::uint64_t raw_data_file = 1U << 1;
}  // namespace autoclear_bit

/// crypt_method: clusters hold AES-CBC; tables are plain.
inline constexpr std::uint32_t aes_encryption = 1;

enum class compression : std::uint8_t { deflate = 0, zstd = 1 };

inline constexpr std::uint32_t end_extension = 0;
inline constexpr std::uint32_t backing_format_extension = 0xe279'2aca;
inline constexpr std::uint32_t data_file_extension = 0x4441'5441;
inline constexpr std::uint32_t feature_names_extension = 0x6803'f857;

inline constexpr std::uint64_t longest_backing_name = 1023;
inline constexpr std::uint64_t v2_header_length = 72;

/// One extension as it lies in cluster 0.
struct extension {
  std::uint32_t type = 0;
  byte_range data;  ///< without the 8 bytes before it and the padding behind it
  std::uint64_t begin() const noexcept { return data.offset - 8; }
  std::uint64_t end() const noexcept { return align_up(data.end(), 8); }
};

struct header {
  geometry shape;
  std::uint64_t backing_offset = 0;
  std::uint32_t backing_length = 0;
  std::uint64_t virtual_size = 0;
  std::uint32_t crypt_method = 0;
  std::uint32_t l1_count = 0;
  std::uint64_t l1_offset = 0;
  std::uint64_t refcount_table_offset = 0;
  std::uint32_t refcount_table_clusters = 0;
  std::uint32_t snapshot_count = 0;
  std::uint64_t snapshots_offset = 0;
  std::uint64_t incompatible = 0;
  std::uint64_t compatible = 0;
  std::uint64_t autoclear = 0;
  std::uint32_t header_length = v2_header_length;
  weir::qcow2::compression compression = compression::deflate;

  std::vector<extension> extensions;  ///< in file order
  std::uint64_t extensions_end = 0;   ///< behind the end marker (or the last extension, where there is none)
  bool has_end_marker = false;        ///< false: the backing name or the cluster's end ended the list
  std::optional<backing_reference> backing;
  std::string data_file;  ///< with external data: the name recorded for its file, possibly none

  bool has(std::uint64_t bit) const noexcept { return (incompatible & bit) != 0; }
  bool has_raw_data_file() const noexcept {
    return shape.external_data && (autoclear & autoclear_bit::raw_data_file) != 0;
  }
  const extension* find(std::uint32_t type) const noexcept;
};

/// Bytes of cluster 0 needed to know its size.
inline constexpr std::size_t first_look_bytes = 24;

/// Size of cluster 0 from the first `first_look_bytes` of a file. Errors name the field and its value.
outcome<std::uint64_t> parse_cluster_size(std::span<const std::byte> first, std::string_view location);

/// Parses cluster 0 (`cluster` is padded with zeros where the file ends early) of a file of `file_size`
/// bytes, and refuses what contradicts itself, the file, or what this build reads. Whether it may be written,
/// and whether there is a key for an image encrypted with AES, is the caller's question.
outcome<header> parse_header(std::span<const std::byte> cluster, std::uint64_t file_size,
                             std::string_view location);

/// "0x30000", for error texts.
std::string hexadecimal(std::uint64_t value);

}  // namespace weir::qcow2
