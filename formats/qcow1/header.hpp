// The header of qcow version 1 (QEMU's block/qcow.c is the only specification), from hostile bytes. Pure. Big-endian:
//
//   0 u32 magic QFI\xfb   4 u32 version 1   8 u64 backing name offset   16 u32 its length   20 u32 time
//   24 u64 size   32 u8 cluster_bits 9-16   33 u8 l2_bits 6-13 (log2 of an L2 table's entries)   36 u32 crypt_method
//   40 u64 L1 table offset
//
// L1 and L2 tables hold offsets, 0 = none; unlike in qcow2 they need not be aligned. An L2 entry with bit 63 names a
// compressed cluster: below it cluster_bits bits of length in bytes, then the offset.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace weir::qcow1 {

inline constexpr std::size_t header_bytes = 48;
inline constexpr std::uint64_t entry_bytes = 8;
inline constexpr std::uint64_t longest_backing_name = 1023;

struct header {
  unsigned cluster_bits = 12;
  unsigned l2_bits = 9;
  std::uint64_t virtual_size = 0;  ///< whole sectors, as QEMU rounds: down
  bool is_encrypted = false;       ///< AES
  std::uint64_t l1_offset = 0;
  byte_range backing_name;  ///< length 0: none

  std::uint64_t cluster_bytes() const noexcept { return std::uint64_t{1} << cluster_bits; }
  std::uint64_t table_entries() const noexcept { return std::uint64_t{1} << l2_bits; }
  std::uint64_t table_bytes() const noexcept { return table_entries() * entry_bytes; }
  /// L2 tables of one cluster each, the only ones that libqcow reads rightly.
  bool has_cluster_tables() const noexcept { return table_bytes() == cluster_bytes(); }
  /// Guest bytes that one L2 table maps.
  std::uint64_t table_span() const noexcept { return std::uint64_t{1} << (cluster_bits + l2_bits); }
  std::uint64_t l1_bytes() const noexcept {
    return (virtual_size / table_span() + (virtual_size % table_span() != 0 ? 1 : 0)) * entry_bytes;
  }
};

bool has_magic(std::span<const std::byte> head) noexcept;

/// `head`: the first bytes of a file of `file_size`, at least header_bytes of them where it is that long. Refuses what
/// contradicts itself or the file, and unknown encryption. Errors name the field and its value.
outcome<header> parse_header(std::span<const std::byte> head, std::uint64_t file_size,
                             std::string_view location);

/// What an L2 entry names.
struct cluster_place {
  enum class kind_type : std::uint8_t { unallocated, data, compressed };
  kind_type kind = kind_type::unallocated;
  byte_range host;
};
/// Nothing if the entry points outside the file or into the header.
std::optional<cluster_place> decode_entry(std::uint64_t entry, const header& of,
                                          std::uint64_t file_size) noexcept;

}  // namespace weir::qcow1
