// Zero and discard: the changes of the mapping that need no new data clusters.
#include "engine/base/endian.hpp"
#include "formats/qcow2/writer.hpp"

#include <algorithm>

namespace weir::qcow2 {

task<result<void>> writer::zero(byte_range range, zero_mode mode) {
  const bool keep = mode == zero_mode::keep_allocated;
  // Version 2 knows no zero clusters: only an unallocated one without a backing image reads as zero.
  if (shape_.version < 3 && (tables_.head.backing || keep)) co_return errc::not_supported;
  co_return co_await change_entries(range, keep ? change::zero_and_keep : change::zero_and_free);
}

task<result<void>> writer::discard(byte_range range) {
  if (shape_.version < 3 && tables_.head.backing) co_return result<void>{};
  co_return co_await change_entries(range, change::discard);
}

task<result<void>> writer::change_entries(byte_range range, change what) {
  while (!range.empty()) {
    const result<void> relieved = co_await relieve();
    if (!relieved) co_return relieved.error();
    const result<std::uint64_t> clusters = co_await change_slice(range, what);
    if (!clusters) co_return clusters.error();
    const std::uint64_t step = std::min(*clusters << shape_.cluster_bits, range.length);
    range = {range.offset + step, range.length - step};
  }
  co_return result<void>{};
}

/// Changes the entries of one slice; returns how many guest clusters that were.
task<result<std::uint64_t>> writer::change_slice(byte_range range, change what) {
  const std::uint64_t first = shape_.cluster_of(range.offset);
  const std::uint64_t l1_index = tables_.place_of(first).l1_index;
  const auto current = tables_.l2_table(l1_index);
  if (!current) co_return errc::corrupt_image;
  const placed_slice old = locate(*current, range);
  if (*current == 0) {
    const bool nothing_to_say = changed_entry(0, what) == 0;
    if (nothing_to_say) co_return old.count;
  } else {
    const result<void> there = co_await fetch(old.offset);
    if (!there) co_return there.error();
    const result<bool> needed =
        needs_change(tables_.l2.find(old.offset) + old.index * entry_bytes, old.count, what);
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
  std::byte* entries = tables_.l2.find_for_change(at.offset) + at.index * entry_bytes;
  for (std::uint64_t index = 0; index < at.count; ++index) {
    std::byte* entry = entries + index * entry_bytes;
    const auto raw = load_big<std::uint64_t>(entry);
    const std::uint64_t changed = changed_entry(raw, what);
    if (changed == raw) continue;
    drop_what(decode_l2_entry(raw, shape_), changed);
    store_big(entry, changed);
  }
  co_return at.count;
}

/// True if any of the entries would change. Errors: corrupt_image if one of them is unsound.
result<bool> writer::needs_change(const std::byte* entries, std::uint64_t count, change what) const {
  bool needed = false;
  for (std::uint64_t index = 0; index < count; ++index) {
    const auto raw = load_big<std::uint64_t>(entries + index * entry_bytes);
    if (!tables_.is_sound(decode_l2_entry(raw, shape_))) return errc::corrupt_image;
    needed = needed || changed_entry(raw, what) != raw;
  }
  return needed;
}

/// What an entry becomes. Precondition: it is sound.
std::uint64_t writer::changed_entry(std::uint64_t raw, change what) const noexcept {
  if (shape_.version < 3) return 0;
  if (what == change::discard && raw == 0) return 0;
  if (what == change::zero_and_keep) {
    const l2_entry entry = decode_l2_entry(raw, shape_);
    const bool own = entry.kind == entry_kind::data || entry.kind == entry_kind::zero_allocated;
    // A cluster shared with a snapshot would not serve a later write: it is not worth keeping.
    if (own && entry.copied) return raw | zero_flag;
  }
  return zero_flag;
}

}  // namespace weir::qcow2
