#include "formats/qcow2/l2_entry.hpp"

namespace weir::qcow2 {
namespace {

constexpr l2_entry invalid_entry{};

constexpr unsigned compressed_offset_bits(const geometry& shape) noexcept {
  return 62 - (shape.cluster_bits - 8);
}

l2_entry decode_compressed(std::uint64_t raw, const geometry& shape) noexcept {
  if ((raw & copied_flag) != 0) return invalid_entry;
  const unsigned offset_bits = compressed_offset_bits(shape);
  const std::uint64_t offset = raw & ((std::uint64_t{1} << offset_bits) - 1);
  const std::uint64_t more_sectors = (raw & ~compressed_flag) >> offset_bits;
  if (offset > offset_mask) return invalid_entry;
  const std::uint64_t end = align_down(offset, sector_bytes) + (more_sectors + 1) * sector_bytes;
  return {.kind = entry_kind::compressed, .host_offset = offset, .host_length = end - offset};
}

}  // namespace

l2_entry decode_l2_entry(std::uint64_t raw, const geometry& shape) noexcept {
  if (raw == 0) return {.kind = entry_kind::unallocated};
  if ((raw & compressed_flag) != 0) {
    return shape.external_data ? invalid_entry : decode_compressed(raw, shape);
  }
  const bool zero = (raw & zero_flag) != 0;
  const bool copied = (raw & copied_flag) != 0;
  const std::uint64_t offset = raw & offset_mask;
  if ((raw & ~(offset_mask | zero_flag | copied_flag)) != 0) return invalid_entry;
  if (zero && shape.version < 3) return invalid_entry;
  if (!is_aligned(offset, shape.cluster_size())) return invalid_entry;
  // The first cluster of a data file is a place like any other: there COPIED tells it from none.
  if (offset == 0 && !(copied && shape.external_data)) {
    return zero && !copied ? l2_entry{.kind = entry_kind::zero_plain} : invalid_entry;
  }
  return {
      .kind = zero ? entry_kind::zero_allocated : entry_kind::data, .copied = copied, .host_offset = offset};
}

l2_entry decode_l2_entry(const raw_l2_entry& raw, const geometry& shape) noexcept {
  if (!shape.extended_l2) return decode_l2_entry(raw.word, shape);
  if ((raw.word & compressed_flag) != 0) {
    const bool sound = (raw.allocated | raw.zeroes) == 0 && !shape.external_data;
    return sound ? decode_compressed(raw.word, shape) : invalid_entry;
  }
  const std::uint64_t offset = raw.word & offset_mask;
  if ((raw.allocated & raw.zeroes) != 0) return invalid_entry;
  if ((raw.word & ~(offset_mask | copied_flag)) != 0) return invalid_entry;
  if (!is_aligned(offset, shape.cluster_size())) return invalid_entry;
  const bool has_cluster = offset != 0 || (raw.word != 0 && shape.external_data);
  if (!has_cluster && (raw.word != 0 || raw.allocated != 0)) return invalid_entry;
  l2_entry made{.host_offset = offset, .allocated = raw.allocated, .zeroes = raw.zeroes};
  made.copied = (raw.word & copied_flag) != 0;
  if (!has_cluster) {
    made.kind = raw.zeroes == all_subclusters ? entry_kind::zero_plain : entry_kind::unallocated;
  } else {
    made.kind = raw.allocated != 0 ? entry_kind::data : entry_kind::zero_allocated;
  }
  return made;
}

entry_kind subcluster_kind(const l2_entry& entry, unsigned index) noexcept {
  if (entry.kind == entry_kind::compressed) return entry_kind::compressed;
  const std::uint32_t bit = std::uint32_t{1} << index;
  if ((entry.allocated & bit) != 0) return entry_kind::data;
  if ((entry.zeroes & bit) == 0) return entry_kind::unallocated;
  const bool owns_cluster = entry.kind == entry_kind::data || entry.kind == entry_kind::zero_allocated;
  return owns_cluster ? entry_kind::zero_allocated : entry_kind::zero_plain;
}

std::optional<std::uint64_t> encode_compressed_entry(byte_range host, const geometry& shape) noexcept {
  const unsigned offset_bits = compressed_offset_bits(shape);
  if (host.end() > offset_mask || host.end() >> offset_bits != 0) return std::nullopt;
  const std::uint64_t more_sectors = (host.end() - 1) / sector_bytes - host.offset / sector_bytes;
  return compressed_flag | more_sectors << offset_bits | host.offset;
}

cluster_run referenced_clusters(const l2_entry& entry, const geometry& shape) noexcept {
  if (shape.external_data) return {};
  switch (entry.kind) {
    case entry_kind::zero_allocated:
    case entry_kind::data:
      return {shape.cluster_of(entry.host_offset), 1};
    case entry_kind::compressed: {
      const std::uint64_t first = shape.cluster_of(entry.host_offset);
      const std::uint64_t last = shape.cluster_of(entry.host_offset + entry.host_length - 1);
      return {first, last - first + 1};
    }
    case entry_kind::unallocated:
    case entry_kind::zero_plain:
    case entry_kind::invalid:
      break;
  }
  return {};
}

std::optional<std::uint64_t> decode_l1_entry(std::uint64_t raw, const geometry& shape) noexcept {
  const std::uint64_t offset = raw & offset_mask;
  if ((raw & ~(offset_mask | copied_flag)) != 0) return std::nullopt;
  if (!is_aligned(offset, shape.cluster_size())) return std::nullopt;
  if (offset == 0 && raw != 0) return std::nullopt;
  return offset;
}

}  // namespace weir::qcow2
