// Zero and discard: the changes of the mapping that need no new data clusters.
#include "formats/qcow2/writer.hpp"

#include <algorithm>

namespace weir::qcow2 {

task<result<void>> writer::zero(byte_range range, zero_mode mode) {
  const bool keep = mode == zero_mode::keep_allocated;
  // Version 2 knows no zero clusters: only an unallocated one without a backing image reads as zero.
  if (shape_.version < 3 && (tables_.head.backing || keep)) co_return errc::not_supported;
  if (tables_.head.has_raw_data_file()) {
    const result<void> zeroed = co_await zero_data_file(range, mode);
    if (!zeroed) co_return zeroed.error();
    co_return co_await change_entries(range, entry_change::zero_and_keep);
  }
  const result<void> changed =
      co_await change_entries(range, keep ? entry_change::zero_and_keep : entry_change::zero_and_free);
  if (changed && !keep) co_await give_up_data(range);
  co_return changed;
}

task<result<void>> writer::discard(byte_range range) {
  if (shape_.version < 3 && tables_.head.backing) co_return result<void>{};
  if (tables_.head.has_raw_data_file()) {
    // The data file has to say the same, so that only what it can zero cheaply is discarded.
    if (!tables_.data_file->capabilities().can_punch) co_return result<void>{};
    co_return co_await zero(range, zero_mode::may_punch);
  }
  const result<void> changed = co_await change_entries(range, entry_change::discard);
  if (changed) co_await give_up_data(range);
  co_return changed;
}

task<result<void>> writer::change_entries(byte_range range, entry_change what) {
  while (!range.empty()) {
    const result<void> relieved = co_await relieve();
    if (!relieved) co_return relieved.error();
    const result<std::uint64_t> clusters = co_await change_slice(range, what);
    if (!clusters) co_return clusters.error();
    const std::uint64_t done_to = shape_.offset_of(shape_.cluster_of(range.offset) + *clusters);
    range = range_between(std::clamp(done_to, range.offset, range.end()), range.end());
  }
  co_return result<void>{};
}

/// True if one of the clusters is being moved. Only the first and the last can be: the others are the caller's.
bool writer::is_moving(byte_range range, std::uint64_t clusters) const noexcept {
  const std::uint64_t first = shape_.cluster_of(range.offset);
  return claims_.is_moving(first) || claims_.is_moving(first + clusters - 1);
}

/// Changes the entries of one slice; returns how many guest clusters that were, 0 to try again.
task<result<std::uint64_t>> writer::change_slice(byte_range range, entry_change what) {
  const std::uint64_t first = shape_.cluster_of(range.offset);
  const std::uint64_t l1_index = tables_.place_of(first).l1_index;
  const auto current = tables_.l2_table(l1_index);
  if (!current) co_return errc::corrupt_image;
  const placed_slice old = locate(*current, range);
  if (*current == 0) {
    const raw_l2_entry nothing;
    const bool nothing_to_say = changed(nothing, range, first, what) == nothing;
    if (nothing_to_say) co_return old.count;
  } else {
    const result<void> there = co_await fetch(old.offset);
    if (!there) co_return there.error();
    const result<bool> needed = needs_change(old, range, what);
    if (!needed) co_return needed.error();
    if (!*needed) co_return old.count;
  }

  async_lock::guard lock = co_await allocation_.acquire();
  if (found_corrupt_) co_return errc::corrupt_image;
  const result<std::uint64_t> table = co_await writable_table(l1_index);
  lock.release();
  if (!table) co_return table.error();
  const placed_slice at = locate(*table, range);
  const result<void> there = co_await fetch(at.offset);
  if (!there) co_return there.error();
  if (is_moving(range, at.count)) {
    co_await claims_.wait_for_move();
    co_return std::uint64_t{0};
  }
  std::byte* entry = tables_.l2.find_for_change(at.offset) + at.index * shape_.l2_entry_bytes();
  for (std::uint64_t index = 0; index < at.count; ++index, entry += shape_.l2_entry_bytes()) {
    const raw_l2_entry raw = load_l2_entry(entry, shape_);
    const raw_l2_entry now = changed(raw, range, first + index, what);
    if (now == raw) continue;
    drop_what(raw, now);
    store_l2_entry(entry, now, shape_);
  }
  co_return at.count;
}

/// True if any of the entries would change. Errors: corrupt_image if one of them is unsound; not_supported if
/// a part of a compressed cluster is to become zero.
result<bool> writer::needs_change(const placed_slice& at, byte_range range, entry_change what) const {
  const std::uint64_t first = shape_.cluster_of(range.offset);
  const std::byte* entry =
      const_cast<slice_cache&>(tables_.l2).find(at.offset) + at.index * shape_.l2_entry_bytes();
  bool needed = false;
  for (std::uint64_t index = 0; index < at.count; ++index, entry += shape_.l2_entry_bytes()) {
    const raw_l2_entry raw = load_l2_entry(entry, shape_);
    const l2_entry decoded = decode_l2_entry(raw, shape_);
    if (!tables_.is_sound(decoded, first + index)) return errc::corrupt_image;
    if (decoded.kind == entry_kind::compressed && what != entry_change::discard) {
      const std::uint32_t mask = held_mask(range, first + index, shape_, tables_.head.virtual_size);
      if (mask != all_subclusters) return errc::not_supported;
    }
    needed = needed || changed(raw, range, first + index, what) != raw;
  }
  return needed;
}

/// What the entry of `cluster` becomes. Precondition: it is sound.
raw_l2_entry writer::changed(const raw_l2_entry& raw, byte_range range, std::uint64_t cluster,
                             entry_change what) const noexcept {
  const std::uint32_t mask = held_mask(range, cluster, shape_, tables_.head.virtual_size);
  return changed_entry(raw, mask, what, claims_.find(cluster) != nullptr, shape_);
}

}  // namespace weir::qcow2
