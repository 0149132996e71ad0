#include "formats/qcow2/subclusters.hpp"

#include <algorithm>
#include <bit>

namespace weir::qcow2 {
namespace {

std::uint32_t mask_between(std::uint64_t first, std::uint64_t end) noexcept {
  if (end - first >= 32) return all_subclusters;
  return ((std::uint32_t{1} << (end - first)) - 1) << first;
}

bool owns_cluster(const l2_entry& entry) noexcept {
  return entry.kind == entry_kind::data || entry.kind == entry_kind::zero_allocated;
}

raw_l2_entry changed_whole(const raw_l2_entry& old, entry_change what, const geometry& shape) noexcept {
  const raw_l2_entry nothing;
  if (shape.version < 3) return nothing;
  if (what == entry_change::discard && old == nothing) return nothing;
  const l2_entry entry = decode_l2_entry(old, shape);
  // A cluster shared with a snapshot would not serve a later write: it is not worth keeping.
  const bool keeps = what == entry_change::zero_and_keep && owns_cluster(entry) && entry.copied;
  if (shape.extended_l2) return {.word = keeps ? old.word : 0, .allocated = 0, .zeroes = all_subclusters};
  return {.word = keeps ? old.word | zero_flag : zero_flag};
}

}  // namespace

std::uint32_t touched_mask(byte_range range, std::uint64_t cluster, const geometry& shape) noexcept {
  if (!shape.extended_l2) return all_subclusters;
  const std::uint64_t begin = shape.offset_of(cluster);
  const byte_range part = intersection(range, {begin, shape.cluster_size()});
  const byte_range grains = align_outward({part.offset - begin, part.length}, shape.grain_size());
  return mask_between(grains.offset >> shape.grain_bits(), grains.end() >> shape.grain_bits());
}

std::uint32_t held_mask(byte_range range, std::uint64_t cluster, const geometry& shape,
                        std::uint64_t disk_size) noexcept {
  if (range.end() == disk_size)
    range = range_between(range.offset, align_up(disk_size, shape.cluster_size()));
  return touched_mask(range, cluster, shape);
}

raw_l2_entry published_entry(const raw_l2_entry& old, std::uint32_t mask, std::uint64_t host_offset,
                             const geometry& shape) noexcept {
  raw_l2_entry made{.word = encode_data_entry(host_offset)};
  if (!shape.extended_l2) return made;
  const l2_entry before = decode_l2_entry(old, shape);
  const bool stays = owns_cluster(before) && before.host_offset == host_offset;
  made.allocated = (stays ? old.allocated : 0) | mask;
  made.zeroes = old.zeroes & ~mask;
  return made;
}

raw_l2_entry changed_entry(const raw_l2_entry& old, std::uint32_t mask, entry_change what, bool in_use,
                           const geometry& shape) noexcept {
  if (mask == all_subclusters) return changed_whole(old, what, shape);
  // What is not allocated reads as the backing layer does, and a discard may leave it at that.
  if (what == entry_change::discard) mask &= old.allocated;
  raw_l2_entry made = old;
  made.allocated &= ~mask;
  made.zeroes |= mask;
  const bool emptied = old.allocated != 0 && made.allocated == 0;
  if (emptied && what != entry_change::zero_and_keep && !in_use) made.word = 0;
  return made;
}

}  // namespace weir::qcow2
