// The table of internal snapshots (images.md section 2): parsing hostile bytes, laying out new ones. Pure.
//
// Entries follow each other, each beginning at a multiple of 8. How long one is stands in its first 40 bytes, so
// that a reader goes from entry to entry and nobody knows the table's length before its end.
//
// Two kinds of damage are told apart. What makes the bytes behind it unreadable fails the parse of the table.
// What concerns one snapshot alone (its L1 table lies nowhere valid) is found by snapshot_fault: the others are
// well.
#pragma once

#include "engine/base/error.hpp"
#include "formats/qcow2/geometry.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weir::qcow2 {

// images.md section 2.
inline constexpr std::uint64_t snapshot_head_bytes = 40;
inline constexpr std::uint64_t largest_snapshot_table_bytes = 64 * MiB;
inline constexpr std::uint32_t largest_snapshot_extra_bytes = 1024;
inline constexpr std::size_t most_snapshots_of_an_image = 65536;

struct snapshot_entry {
  std::uint64_t l1_offset = 0;
  std::uint32_t l1_count = 0;
  std::string id;
  std::string name;
  std::uint32_t date_s = 0;
  std::uint32_t date_ns = 0;
  std::uint64_t vm_clock_ns = 0;
  std::uint64_t vm_state_bytes = 0;
  std::optional<std::uint64_t> disk_bytes;  ///< not recorded by old writers of version 2
  std::optional<std::uint64_t> icount;      ///< instruction count; not recorded or not in use
  std::vector<std::byte> unknown_extra;     ///< extra data behind the fields above, kept as it is
  friend bool operator==(const snapshot_entry&, const snapshot_entry&) = default;
};

struct snapshot_table {
  std::vector<snapshot_entry> entries;
  std::uint64_t length = 0;  ///< bytes, from snapshots_offset to the end of the last entry
};

/// Length of the entry whose head this is, without padding. Precondition: snapshot_head_bytes.
/// Errors: extra data above the limit.
outcome<std::uint64_t> snapshot_entry_length(std::span<const std::byte> head, std::string_view location);

/// Precondition: exactly the bytes of one entry.
snapshot_entry parse_snapshot(std::span<const std::byte> entry);

/// Why this snapshot's L1 table cannot be read from a file of `file_size` bytes; empty if it can.
std::string snapshot_fault(const snapshot_entry& entry, const geometry& shape, std::uint64_t file_size);

/// The whole table. Errors: out_of_range above the limits of the format.
result<std::vector<std::byte>> lay_out_snapshots(std::span<const snapshot_entry> entries);

}  // namespace weir::qcow2
