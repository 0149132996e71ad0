#include "formats/qcow2/bitmap_directory.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/header.hpp"

#include <algorithm>
#include <cstring>
#include <set>

namespace weir::qcow2 {
namespace {

// Offsets in a directory entry.
constexpr std::uint64_t type_at = 16;
constexpr std::uint64_t granularity_at = 17;
constexpr std::uint64_t name_length_at = 18;
constexpr std::uint64_t extra_length_at = 20;
constexpr std::uint8_t dirty_tracking_type = 1;

failure refuse(std::string_view location, const std::string& why) {
  return make_failure(errc::corrupt_image, location, why);
}

bool is_cluster(std::uint64_t offset, const geometry& shape) noexcept {
  return offset != 0 && offset <= offset_mask && is_aligned(offset, shape.cluster_size());
}

}  // namespace

outcome<bitmaps_place> parse_bitmaps_extension(std::span<const std::byte> data, const geometry& shape,
                                               std::uint64_t file_size, std::string_view location) {
  if (data.size() != bitmaps_extension_bytes) {
    return refuse(location, "the bitmaps extension has " + std::to_string(data.size()) + " bytes, not 24");
  }
  const auto count = load_big<std::uint32_t>(data.data());
  const byte_range directory{load_big<std::uint64_t>(data.data() + 16),
                             load_big<std::uint64_t>(data.data() + 8)};
  if (load_big<std::uint32_t>(data.data() + 4) != 0) {
    return refuse(location, "the bitmaps extension has reserved bits set");
  }
  if (count == 0 || count > most_bitmaps) {
    return refuse(location, "the number of bitmaps, " + std::to_string(count) + ", is not 1 to 65535");
  }
  if (directory.length > largest_bitmap_directory_bytes ||
      directory.length < count * (bitmap_head_bytes + 8)) {
    return refuse(location, "the bitmap directory cannot have " + std::to_string(directory.length) +
                                " bytes for " + std::to_string(count) + " bitmaps");
  }
  if (!is_cluster(directory.offset, shape) || !fits(directory.offset, directory.length, file_size)) {
    return refuse(location, "the bitmap directory at " + hexadecimal(directory.offset) +
                                " is not a cluster boundary or ends past the end of the file");
  }
  return bitmaps_place{count, directory};
}

void lay_out_bitmaps_extension(std::span<std::byte> data, const bitmaps_place& place) {
  store_big(data.data(), place.count);
  store_big(data.data() + 4, std::uint32_t{0});
  store_big(data.data() + 8, place.directory.length);
  store_big(data.data() + 16, place.directory.offset);
}

outcome<std::vector<bitmap_entry>> parse_bitmap_directory(std::span<const std::byte> directory,
                                                          std::uint32_t count, std::string_view location) {
  std::vector<bitmap_entry> entries;
  std::set<std::string> names;
  std::uint64_t at = 0;
  for (std::uint32_t index = 0; index < count; ++index) {
    const std::string which = "bitmap " + std::to_string(index) + " of the directory ";
    if (!fits(at, bitmap_head_bytes, directory.size())) return refuse(location, which + "is cut off");
    const std::byte* head = directory.data() + at;
    bitmap_entry entry;
    entry.table_offset = load_big<std::uint64_t>(head);
    entry.table_count = load_big<std::uint32_t>(head + 8);
    entry.flags = load_big<std::uint32_t>(head + bitmap_flags_at);
    entry.type = std::to_integer<std::uint8_t>(head[type_at]);
    entry.granularity_bits = std::to_integer<std::uint8_t>(head[granularity_at]);
    const auto name_length = load_big<std::uint16_t>(head + name_length_at);
    const auto extra_length = load_big<std::uint32_t>(head + extra_length_at);
    const std::uint64_t length = bitmap_head_bytes + extra_length + name_length;
    if (!fits(at, align_up(length, 8), directory.size())) return refuse(location, which + "is cut off");
    const auto extra = directory.subspan(static_cast<std::size_t>(at + bitmap_head_bytes), extra_length);
    entry.extra.assign(extra.begin(), extra.end());
    entry.name.assign(reinterpret_cast<const char*>(head) + bitmap_head_bytes + extra_length, name_length);
    if (name_length == 0 || name_length > longest_bitmap_name || !names.insert(entry.name).second) {
      return refuse(location, which + "has no name, too long a name or another's name");
    }
    at += align_up(length, 8);
    entries.push_back(std::move(entry));
  }
  if (at != directory.size()) return refuse(location, "the bitmap directory is longer than its entries");
  return entries;
}

std::uint64_t bitmap_entry_length(const bitmap_entry& entry) noexcept {
  return align_up(bitmap_head_bytes + entry.extra.size() + entry.name.size(), 8);
}

std::vector<std::byte> lay_out_bitmap_directory(std::span<const bitmap_entry> entries) {
  std::vector<std::byte> directory;
  for (const bitmap_entry& entry : entries) {
    const std::size_t begin = directory.size();
    directory.resize(begin + static_cast<std::size_t>(bitmap_entry_length(entry)));
    std::byte* at = directory.data() + begin;
    store_big(at, entry.table_offset);
    store_big(at + 8, entry.table_count);
    store_big(at + bitmap_flags_at, entry.flags);
    at[type_at] = static_cast<std::byte>(entry.type);
    at[granularity_at] = static_cast<std::byte>(entry.granularity_bits);
    store_big(at + name_length_at, static_cast<std::uint16_t>(entry.name.size()));
    store_big(at + extra_length_at, static_cast<std::uint32_t>(entry.extra.size()));
    std::ranges::copy(entry.extra, at + bitmap_head_bytes);
    std::memcpy(at + bitmap_head_bytes + entry.extra.size(), entry.name.data(), entry.name.size());
  }
  return directory;
}

std::uint64_t bitmap_table_count(std::uint64_t virtual_size, unsigned granularity_bits,
                                 const geometry& shape) noexcept {
  // One cluster holds 8 bits per byte: guest bytes it covers are below 2^(21 + 3 + 31).
  const std::uint64_t covered = shape.cluster_size() * 8 << granularity_bits;
  return virtual_size / covered + (virtual_size % covered != 0 ? 1 : 0);
}

std::string bitmap_fault(const bitmap_entry& entry, const bitmap_limits& limits) {
  const geometry& shape = limits.shape;
  if (entry.type != dirty_tracking_type) return "its type is unknown";
  if ((entry.flags & ~bitmap_flag::known) != 0) return "it has unknown flags";
  if (!entry.extra.empty() && (entry.flags & bitmap_flag::extra_data_compatible) == 0) {
    return "it has extra data that must be understood";
  }
  if (entry.granularity_bits < lowest_granularity_bits || entry.granularity_bits > highest_granularity_bits) {
    return "its granularity is not 512 bytes to 2 GiB";
  }
  const std::string table = "its table at " + hexadecimal(entry.table_offset);
  const std::uint64_t length = entry.table_count * entry_bytes;
  if ((entry.table_count != 0 && !is_cluster(entry.table_offset, shape)) ||
      !fits(entry.table_offset, length, limits.file_size)) {
    return table + " is not a cluster boundary or ends past the end of the file";
  }
  if (std::uint64_t{entry.table_count} << shape.cluster_bits > largest_bitmap_bytes) {
    return "its bits are more than 512 MiB";
  }
  const bool in_use = (entry.flags & bitmap_flag::in_use) != 0;
  const std::uint64_t wanted = bitmap_table_count(limits.virtual_size, entry.granularity_bits, shape);
  if (!in_use && entry.table_count != wanted) return table + " does not fit the virtual size";
  return {};
}

bitmap_table_entry decode_bitmap_table_entry(std::uint64_t raw, const geometry& shape) noexcept {
  const std::uint64_t offset = raw & offset_mask;
  if ((raw & ~(offset_mask | all_bits_set_entry)) != 0) return {};
  if (offset == 0) return {.kind = raw == 0 ? bitmap_cluster::clear : bitmap_cluster::set};
  if (raw != offset || !is_aligned(offset, shape.cluster_size())) return {};
  return {.kind = bitmap_cluster::stored, .host_offset = offset};
}

}  // namespace weir::qcow2
