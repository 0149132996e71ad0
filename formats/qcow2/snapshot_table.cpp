#include "formats/qcow2/snapshot_table.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/header.hpp"

#include <algorithm>
#include <cstring>
#include <limits>

namespace weir::qcow2 {
namespace {

// Offsets in an entry, and in the extra data behind its head.
constexpr std::uint64_t id_length_at = 12;
constexpr std::uint64_t name_length_at = 14;
constexpr std::uint64_t extra_length_at = 36;
constexpr std::uint64_t disk_bytes_at = 8;
constexpr std::uint64_t icount_at = 16;
constexpr std::uint64_t known_extra_bytes = 24;
constexpr std::uint64_t no_icount = ~std::uint64_t{0};

std::string text_at(std::span<const std::byte> bytes, std::uint64_t at, std::uint64_t length) {
  return {reinterpret_cast<const char*>(bytes.data()) + at, static_cast<std::size_t>(length)};
}

void read_extra(std::span<const std::byte> extra, snapshot_entry& into) {
  const auto number = [&](std::uint64_t at) { return load_big<std::uint64_t>(extra.data() + at); };
  if (extra.size() >= disk_bytes_at) into.vm_state_bytes = number(0);
  if (extra.size() >= icount_at) into.disk_bytes = number(disk_bytes_at);
  if (extra.size() >= known_extra_bytes && number(icount_at) != no_icount) into.icount = number(icount_at);
  if (extra.size() > known_extra_bytes) {
    into.unknown_extra.assign(extra.begin() + known_extra_bytes, extra.end());
  }
}

/// Length of the extra data an entry is written with: fields that are not known are left out at the end.
std::uint64_t extra_length(const snapshot_entry& entry) {
  if (!entry.unknown_extra.empty()) return known_extra_bytes + entry.unknown_extra.size();
  return entry.disk_bytes ? known_extra_bytes : disk_bytes_at;
}

void append_entry(std::vector<std::byte>& table, const snapshot_entry& entry) {
  const std::uint64_t extra = extra_length(entry);
  const std::size_t begin = table.size();
  table.resize(begin + static_cast<std::size_t>(snapshot_head_bytes + extra) + entry.id.size() +
               entry.name.size());
  std::byte* at = table.data() + begin;
  store_big(at, entry.l1_offset);
  store_big(at + 8, entry.l1_count);
  store_big(at + id_length_at, static_cast<std::uint16_t>(entry.id.size()));
  store_big(at + name_length_at, static_cast<std::uint16_t>(entry.name.size()));
  store_big(at + 16, entry.date_s);
  store_big(at + 20, entry.date_ns);
  store_big(at + 24, entry.vm_clock_ns);
  const bool small = entry.vm_state_bytes <= std::numeric_limits<std::uint32_t>::max();
  store_big(at + 32, small ? static_cast<std::uint32_t>(entry.vm_state_bytes) : std::uint32_t{0});
  store_big(at + extra_length_at, static_cast<std::uint32_t>(extra));
  at += snapshot_head_bytes;
  store_big(at, entry.vm_state_bytes);
  if (extra >= known_extra_bytes) {
    store_big(at + disk_bytes_at, entry.disk_bytes.value_or(0));
    store_big(at + icount_at, entry.icount.value_or(no_icount));
    std::ranges::copy(entry.unknown_extra, at + known_extra_bytes);
  }
  at += extra;
  std::memcpy(at, entry.id.data(), entry.id.size());
  std::memcpy(at + entry.id.size(), entry.name.data(), entry.name.size());
}

}  // namespace

outcome<std::uint64_t> snapshot_entry_length(std::span<const std::byte> head, std::string_view location) {
  const auto extra = load_big<std::uint32_t>(head.data() + extra_length_at);
  if (extra > largest_snapshot_extra_bytes) {
    return make_failure(errc::corrupt_image, location,
                        "a snapshot has " + std::to_string(extra) + " bytes of extra data, above 1024");
  }
  return snapshot_head_bytes + extra + load_big<std::uint16_t>(head.data() + id_length_at) +
         load_big<std::uint16_t>(head.data() + name_length_at);
}

snapshot_entry parse_snapshot(std::span<const std::byte> entry) {
  const std::byte* head = entry.data();
  snapshot_entry made;
  made.l1_offset = load_big<std::uint64_t>(head);
  made.l1_count = load_big<std::uint32_t>(head + 8);
  const auto id_length = load_big<std::uint16_t>(head + id_length_at);
  const auto name_length = load_big<std::uint16_t>(head + name_length_at);
  made.date_s = load_big<std::uint32_t>(head + 16);
  made.date_ns = load_big<std::uint32_t>(head + 20);
  made.vm_clock_ns = load_big<std::uint64_t>(head + 24);
  made.vm_state_bytes = load_big<std::uint32_t>(head + 32);
  const auto extra = load_big<std::uint32_t>(head + extra_length_at);
  read_extra(entry.subspan(snapshot_head_bytes, extra), made);
  made.id = text_at(entry, snapshot_head_bytes + extra, id_length);
  made.name = text_at(entry, snapshot_head_bytes + extra + id_length, name_length);
  return made;
}

std::string snapshot_fault(const snapshot_entry& entry, const geometry& shape, std::uint64_t file_size) {
  const std::uint64_t length = entry.l1_count * entry_bytes;
  const std::string where = "its L1 table at " + hexadecimal(entry.l1_offset);
  if (length > largest_l1_bytes) return where + " is bigger than 32 MiB";
  if (length == 0) return {};
  const bool placed = entry.l1_offset != 0 && entry.l1_offset <= offset_mask &&
                      is_aligned(entry.l1_offset, shape.cluster_size());
  if (!placed) return where + " is not a cluster boundary";
  if (!fits(entry.l1_offset, length, file_size)) return where + " ends past the end of the file";
  return {};
}

result<std::vector<std::byte>> lay_out_snapshots(std::span<const snapshot_entry> entries) {
  constexpr std::size_t longest_text = std::numeric_limits<std::uint16_t>::max();
  if (entries.size() > most_snapshots_of_an_image) return errc::out_of_range;
  std::vector<std::byte> table;
  for (const snapshot_entry& entry : entries) {
    if (entry.id.size() > longest_text || entry.name.size() > longest_text) return errc::out_of_range;
    table.resize(static_cast<std::size_t>(align_up(table.size(), 8)));
    append_entry(table, entry);
    if (table.size() > largest_snapshot_table_bytes) return errc::out_of_range;
  }
  return table;
}

}  // namespace weir::qcow2
