#include "formats/qcow2/mapper.hpp"

#include "engine/base/endian.hpp"
#include "formats/codec.hpp"

#include <algorithm>
#include <bit>

namespace weir::qcow2 {

struct mapper::run {
  std::uint64_t first = 0;  // guest cluster or subcluster
  std::uint64_t count = 0;
  bool started = false;
  bool cached = true;
  std::uint64_t raw = 0;  // of the first entry
  l2_entry entry;         // with subclusters: kind and host offset of the first one
};

namespace {

/// How many subclusters from `index` on read the same way as it does.
unsigned count_alike(const l2_entry& entry, entry_kind kind, unsigned index) noexcept {
  std::uint32_t alike = ~(entry.allocated | entry.zeroes);
  if (kind == entry_kind::data) alike = entry.allocated;
  if (kind == entry_kind::zero_plain || kind == entry_kind::zero_allocated) alike = entry.zeroes;
  return static_cast<unsigned>(std::countr_one(alike >> index));
}

entry_kind without_ownership(entry_kind kind) noexcept {
  return kind == entry_kind::zero_allocated ? entry_kind::zero_plain : kind;
}

}  // namespace

std::optional<result<extent>> mapper::map(byte_range range) {
  run found;
  const geometry& shape = tables_.shape;
  found.first = range.offset >> shape.grain_bits();
  const std::uint64_t last = (range.end() - 1) >> shape.grain_bits();
  const auto extend_run = shape.extended_l2 ? &mapper::extend_subclusters : &mapper::extend;
  while (found.first + found.count <= last && (this->*extend_run)(found, last)) {
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

bool mapper::extend_absent(run& found, std::uint64_t last_unit) {
  if (!found.started && !start(found, 0)) return false;
  if (found.entry.kind != entry_kind::unallocated) return false;
  const std::uint64_t unit = found.first + found.count;
  const std::uint64_t per_table = tables_.shape.table_span() >> tables_.shape.grain_bits();
  const std::uint64_t in_table = per_table - (unit & (per_table - 1));
  found.count += std::min(in_table, last_unit - unit + 1);
  return true;
}

/// The same in subclusters: adds those of one cluster, or of one absent table.
bool mapper::extend_subclusters(run& found, std::uint64_t last_subcluster) {
  const geometry& shape = tables_.shape;
  const std::uint64_t subcluster = found.first + found.count;
  const std::uint64_t cluster = subcluster >> subcluster_count_bits;
  const auto index = static_cast<unsigned>(subcluster & (shape.subcluster_count() - 1));
  const auto at = tables_.place_of(cluster);
  const auto table = tables_.l2_table(at.l1_index);
  if (!table) return false;
  if (*table == 0) return extend_absent(found, last_subcluster);
  const std::byte* slice = tables_.l2.find(*table + at.slice_in_table);
  if (slice == nullptr) {
    found.cached = false;
    return false;
  }
  l2_entry entry =
      decode_l2_entry(load_l2_entry(slice + at.index_in_slice * shape.l2_entry_bytes(), shape), shape);
  if (!tables_.is_sound(entry, cluster)) return false;
  const entry_kind kind = without_ownership(subcluster_kind(entry, index));
  std::uint64_t count = shape.subcluster_count() - index;
  if (kind != entry_kind::compressed) {
    count = count_alike(entry, kind, index);
    entry.host_offset += std::uint64_t{index} << shape.grain_bits();
  }
  entry.kind = kind;
  if (found.started && !continues(found, entry)) return false;
  if (!found.started) found.entry = entry;
  found.started = true;
  found.count += std::min(count, last_subcluster - subcluster + 1);
  return index + count == shape.subcluster_count() && kind != entry_kind::compressed;
}

bool mapper::continues(const run& found, const l2_entry& next) const {
  if (next.kind != found.entry.kind || next.kind == entry_kind::compressed) return false;
  if (next.kind != entry_kind::data) return true;
  const std::uint64_t host = found.entry.host_offset + (found.count << tables_.shape.grain_bits());
  return next.copied == found.entry.copied && next.host_offset == host;
}

bool mapper::start(run& found, std::uint64_t raw) const {
  const l2_entry entry = decode_l2_entry(raw, tables_.shape);
  if (!tables_.is_sound(entry, found.first)) return false;
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
/// cluster has been checked, and with subclusters every one. A data file has neither end nor metadata.
void mapper::clip_to_host(run& found) const {
  const geometry& shape = tables_.shape;
  if (found.entry.kind != entry_kind::data || found.count == 1) return;
  if (shape.extended_l2 || shape.external_data) return;
  const std::uint64_t in_file = shape.clusters_for(tables_.file.size() - found.entry.host_offset);
  found.count = std::min(found.count, in_file);
  const byte_range host{found.entry.host_offset, found.count << shape.cluster_bits};
  found.count = tables_.metadata.clear_prefix(host) >> shape.cluster_bits;
}

result<extent> mapper::answer(const run& from, byte_range range) const {
  run found = from;
  clip_to_host(found);
  const geometry& shape = tables_.shape;
  const std::uint64_t begin = found.first << shape.grain_bits();
  const byte_range covered = intersection(range, {begin, found.count << shape.grain_bits()});
  extent made;
  made.length = covered.length;
  made.storage_index = tables_.data_index();
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
      made.unit = {.guest = {align_down(range.offset, shape.cluster_size()), shape.cluster_size()},
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
