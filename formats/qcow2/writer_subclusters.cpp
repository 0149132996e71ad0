// Allocation in images with subclusters: how far a host run reaches, and what moves with it. Publish, zero and discard are the same for all images (writer.cpp,
// writer_zero.cpp): they work on masks of subclusters.
#include "formats/qcow2/subclusters.hpp"
#include "formats/qcow2/writer.hpp"

#include <algorithm>
#include <bit>

namespace weir::qcow2 {
namespace {

bool owns_cluster(const l2_entry& entry) noexcept {
  const bool has_cluster = entry.kind == entry_kind::data || entry.kind == entry_kind::zero_allocated;
  return has_cluster && entry.copied;
}

/// Subclusters that must come along when the cluster moves.
std::uint32_t moved_mask(const l2_entry& entry) noexcept {
  if (entry.kind == entry_kind::compressed) return all_subclusters;
  return entry.kind == entry_kind::data && !entry.copied ? entry.allocated : 0;
}

}  // namespace

l2_entry writer::entry_at(const placed_slice& at, std::uint64_t index) const {
  const std::byte* slice = const_cast<slice_cache&>(tables_.l2).find(at.offset);
  return decode_l2_entry(load_l2_entry(slice + (at.index + index) * shape_.l2_entry_bytes(), shape_), shape_);
}

/// How far one contiguous host run serves `range`: over clusters that own their host clusters side by side, up
/// to the first subcluster that is allocated there already; or over clusters that need new ones; or inside one
/// cluster that others are allocating at the same time.
result<writer::need> writer::survey_subclusters(const placed_slice& at, byte_range range) const {
  const std::uint64_t first = shape_.cluster_of(range.offset);
  need found;
  for (std::uint64_t index = 0; index < at.count; ++index) {
    const std::uint64_t cluster = first + index;
    const l2_entry entry = entry_at(at, index);
    const cluster_claims::claim* claim = claims_.find(cluster);
    if (!tables_.is_sound(entry, cluster) || (claim != nullptr && index > 0)) {
      if (index == 0) return errc::corrupt_image;
      break;
    }
    const bool owned = owns_cluster(entry);
    std::uint64_t host = owned ? entry.host_offset : 0;
    if (claim != nullptr) host = claim->host_offset;
    if (index == 0) found.reuse_offset = host;
    const std::uint64_t next = found.reuse_offset + shape_.offset_of(index);
    if ((host != 0) != (found.reuse_offset != 0) || (host != 0 && host != next)) break;
    const std::uint64_t begin = std::max(range.offset, shape_.offset_of(cluster));
    const auto from = static_cast<unsigned>((begin >> shape_.grain_bits()) & (shape_.subcluster_count() - 1));
    const std::uint32_t in_place = owned ? entry.allocated >> from : 0;
    if (index > 0 && (in_place & 1) != 0) break;
    ++found.count;
    found.guest_end = shape_.offset_of(cluster + 1);
    if (in_place >> 1 != 0) {
      const auto stop = from + 1 + static_cast<unsigned>(std::countr_zero(in_place >> 1));
      found.guest_end = shape_.offset_of(cluster) + (std::uint64_t{stop} << shape_.grain_bits());
      break;
    }
    if (claim != nullptr) break;
  }
  return found;
}

/// The allocation of `wanted.count` clusters from `host_offset` on: the grains asked for, and what moves with
/// them.
allocation writer::describe_subclusters(byte_range range, const placed_slice& at, const need& wanted,
                                        std::uint64_t host_offset) const {
  const std::uint64_t first = shape_.cluster_of(range.offset);
  const std::uint64_t last = first + wanted.count - 1;
  const std::uint64_t grain = shape_.grain_size();
  const byte_range asked =
      range_between(range.offset, std::min({range.end(), wanted.guest_end, shape_.offset_of(last + 1)}));
  byte_range guest = align_outward(asked, grain);
  if (wanted.reuse_offset == 0) {
    const std::uint64_t reached = shape_.cluster_of(asked.end() - 1);
    const std::uint32_t with_first = moved_mask(entry_at(at, 0));
    const std::uint32_t with_last = moved_mask(entry_at(at, reached - first));
    std::uint64_t begin = guest.offset;
    std::uint64_t end = guest.end();
    if (with_first != 0) {
      const auto lowest = static_cast<std::uint64_t>(std::countr_zero(with_first));
      begin = std::min(begin, shape_.offset_of(first) + lowest * grain);
    }
    if (with_last != 0) {
      const auto highest = static_cast<std::uint64_t>(std::bit_width(with_last));
      end = std::max(end, shape_.offset_of(reached) + highest * grain);
    }
    guest = range_between(begin, end);
  }
  allocation made;
  made.guest = intersection(guest, {0, tables_.head.virtual_size});
  made.head = range_between(made.guest.offset, asked.offset);
  made.tail = range_between(asked.end(), std::max(asked.end(), made.guest.end()));
  made.token = wanted.reuse_offset != 0 ? reused_token : reserved_token;
  made.host_offset = host_offset + (made.guest.offset - shape_.offset_of(first));
  return made;
}

/// Claims the clusters of which only a part was asked for.
void writer::claim_parts(const allocation& made, const placed_slice& at, bool reserved) {
  const byte_range asked = range_between(made.head.end(), made.tail.offset);
  const std::uint64_t first = shape_.cluster_of(made.guest.offset);
  const std::uint64_t last = shape_.cluster_of(made.guest.end() - 1);
  const std::uint64_t host = align_down(made.host_offset, shape_.cluster_size());
  const auto claim = [&](std::uint64_t cluster) {
    if (held_mask(asked, cluster, shape_, tables_.head.virtual_size) == all_subclusters) return;
    const bool moves = reserved && moved_mask(entry_at(at, cluster - first)) != 0;
    claims_.add(cluster, {host + shape_.offset_of(cluster - first), reserved, moves});
  };
  claim(first);
  if (last != first) claim(last);
}

/// Precondition: the allocation lock is held, the slice `at` is cached, and the first cluster does not move.
task<result<allocation>> writer::allocate_subclusters(byte_range range, placed_slice at) {
  result<need> wanted = survey_subclusters(at, range);
  if (!wanted) co_return wanted.error();
  if (wanted->reuse_offset != 0) {
    const allocation made = describe_subclusters(range, at, *wanted, wanted->reuse_offset);
    claim_parts(made, at, false);
    co_return made;
  }
  const result<allocator::reservation> place = co_await clusters_.reserve(wanted->count);
  if (!place) co_return place.error();
  // The slice may have left the cache meanwhile; the entries are the caller's or, if claimed, unclaimed still.
  const result<void> there = co_await fetch(at.offset);
  if (!there) {
    const result<void> ignored = co_await clusters_.give_back(place->run);
    static_cast<void>(ignored);
    co_return there.error();
  }
  wanted->count = place->run.count;
  allocation made = describe_subclusters(range, at, *wanted, shape_.offset_of(place->run.first));
  made.host_is_zero = place->reads_zero;
  claim_parts(made, at, true);
  co_return made;
}

/// Ends the claims of an allocation; gives back host clusters that nobody will point to.
/// Precondition: the allocation lock is held.
task<result<void>> writer::release_subclusters(allocation reserved) {
  const std::uint64_t first = shape_.cluster_of(reserved.guest.offset);
  const std::uint64_t last = shape_.cluster_of(reserved.guest.end() - 1);
  const std::uint64_t host = shape_.cluster_of(reserved.host_offset);
  result<void> answer;
  for (std::uint64_t cluster = first; cluster <= last; ++cluster) {
    const auto left = claims_.end(cluster, false);
    const bool unwanted = left ? left->users == 0 && left->reserved : reserved.token == reserved_token;
    if (!unwanted) continue;
    const cluster_run run{host + (cluster - first), 1};
    const result<void> given = co_await clusters_.give_back(run);
    if (!given) answer = given;
  }
  co_return answer;
}

}  // namespace weir::qcow2
