#include "formats/qcow2/mapper.hpp"

#include "engine/base/endian.hpp"
#include "formats/codec.hpp"

#include <algorithm>

namespace weir::qcow2 {

struct mapper::run {
  std::uint64_t first = 0;  // guest cluster
  std::uint64_t count = 0;
  bool started = false;
  bool cached = true;
  std::uint64_t raw = 0;  // of the first entry
  l2_entry entry;
};

std::optional<result<extent>> mapper::map(byte_range range) {
  run found;
  found.first = tables_.shape.cluster_of(range.offset);
  const std::uint64_t last = tables_.shape.cluster_of(range.end() - 1);
  while (found.first + found.count <= last && extend(found, last)) {
  }
  if (!found.started) {
    if (!found.cached) return std::nullopt;
    return errc::corrupt_image;
  }
  return answer(found, range);
}

std::uint64_t mapper::missing_slice(std::uint64_t guest_offset) const {
  const auto at = tables_.place_of(tables_.shape.cluster_of(guest_offset));
  return tables_.l2_table(at.l1_index).value_or(0) + at.slice_in_table;
}

bool mapper::extend(run& found, std::uint64_t last_cluster) {
  const std::uint64_t cluster = found.first + found.count;
  const auto at = tables_.place_of(cluster);
  const auto table = tables_.l2_table(at.l1_index);
  if (!table) return false;
  if (*table == 0) return extend_absent(found, last_cluster);
  const std::byte* slice = tables_.l2.find(*table + at.slice_in_table);
  if (slice == nullptr) {
    found.cached = false;
    return false;
  }
  const std::byte* entries = slice + at.index_in_slice * entry_bytes;
  if (!found.started && !start(found, load_big<std::uint64_t>(entries))) return false;
  const std::uint64_t in_slice = tables_.shape.slice_entries() - at.index_in_slice;
  const std::uint64_t most = std::min(in_slice, last_cluster - cluster + 1);
  const std::uint64_t same = count_same(found, entries, most);
  found.count += same;
  return same == in_slice && found.entry.kind != entry_kind::compressed;
}

bool mapper::extend_absent(run& found, std::uint64_t last_cluster) {
  if (!found.started && !start(found, 0)) return false;
  if (found.entry.kind != entry_kind::unallocated) return false;
  const std::uint64_t cluster = found.first + found.count;
  const std::uint64_t in_table = tables_.shape.table_entries() - cluster % tables_.shape.table_entries();
  found.count += std::min(in_table, last_cluster - cluster + 1);
  return true;
}

bool mapper::start(run& found, std::uint64_t raw) const {
  const l2_entry entry = decode_l2_entry(raw, tables_.shape);
  if (!tables_.is_sound(entry)) return false;
  found.raw = raw;
  found.entry = entry;
  found.started = true;
  return true;
}

std::uint64_t mapper::count_same(const run& found, const std::byte* entries, std::uint64_t most) const {
  std::uint64_t count = 0;
  switch (found.entry.kind) {
    case entry_kind::data: {
      // Same flags, next cluster: the next entry is the previous one plus a cluster.
      std::uint64_t expected = found.raw + (found.count << tables_.shape.cluster_bits);
      while (count < most && load_big<std::uint64_t>(entries + count * entry_bytes) == expected) {
        expected += tables_.shape.cluster_size();
        ++count;
      }
      return count;
    }
    case entry_kind::zero_plain:
    case entry_kind::zero_allocated:
      while (count < most) {
        const l2_entry next =
            decode_l2_entry(load_big<std::uint64_t>(entries + count * entry_bytes), tables_.shape);
        if (next.kind != entry_kind::zero_plain && next.kind != entry_kind::zero_allocated) break;
        ++count;
      }
      return count;
    case entry_kind::unallocated:
      while (count < most && load_big<std::uint64_t>(entries + count * entry_bytes) == 0) ++count;
      return count;
    case entry_kind::compressed:
      return found.count == 0 ? 1 : 0;
    case entry_kind::invalid:
      break;
  }
  return 0;
}

/// A run of data ends before the first cluster past the end of the file and before metadata; its first
/// cluster has been checked.
void mapper::clip_to_host(run& found) const {
  if (found.entry.kind != entry_kind::data || found.count == 1) return;
  const geometry& shape = tables_.shape;
  const std::uint64_t in_file = shape.clusters_for(tables_.file.size() - found.entry.host_offset);
  found.count = std::min(found.count, in_file);
  const byte_range host{found.entry.host_offset, found.count << shape.cluster_bits};
  found.count = tables_.metadata.clear_prefix(host) >> shape.cluster_bits;
}

result<extent> mapper::answer(const run& from, byte_range range) const {
  run found = from;
  clip_to_host(found);
  const geometry& shape = tables_.shape;
  const std::uint64_t begin = shape.offset_of(found.first);
  const byte_range covered = intersection(range, {begin, found.count << shape.cluster_bits});
  extent made;
  made.length = covered.length;
  switch (found.entry.kind) {
    case entry_kind::data:
      made.kind = extent_kind::data;
      made.in_place = writable_ && found.entry.copied;
      made.host_offset = found.entry.host_offset + (range.offset - begin);
      break;
    case entry_kind::zero_plain:
    case entry_kind::zero_allocated:
      made.kind = extent_kind::zero;
      break;
    case entry_kind::compressed:
      made.kind = extent_kind::encoded;
      made.unit = {.guest = {begin, shape.cluster_size()},
                   .host = {found.entry.host_offset, found.entry.host_length},
                   .decode = tables_.head.compression == compression::zstd ? &decode_zstd : &decode_deflate};
      break;
    case entry_kind::unallocated:
    case entry_kind::invalid:
      break;
  }
  return made;
}

}  // namespace weir::qcow2
