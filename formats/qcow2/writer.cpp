#include "formats/qcow2/writer.hpp"

#include "engine/base/endian.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace weir::qcow2 {
namespace {

constexpr std::size_t table_copy_bytes = 256 * KiB;

}  // namespace

writer::writer(executor context, image_tables& tables, pin_ledger& pins, std::size_t refcount_cache_bytes)
    : tables_(tables),
      shape_(tables.shape),
      counts_(context, tables, refcount_cache_bytes),
      clusters_(tables, counts_, pins),
      flusher_(context, tables, counts_, clusters_),
      allocation_(context),
      claims_(context) {}

/// Entries of `range` that lie in the slice of its first cluster.
writer::placed_slice writer::locate(std::uint64_t table, byte_range range) const noexcept {
  const std::uint64_t first = shape_.cluster_of(range.offset);
  const std::uint64_t last = shape_.cluster_of(range.end() - 1);
  const auto at = tables_.place_of(first);
  return {table + at.slice_in_table, at.index_in_slice,
          std::min(last - first + 1, shape_.slice_entries() - at.index_in_slice)};
}

task<result<void>> writer::fetch(std::uint64_t slice) {
  if (tables_.l2.find(slice) != nullptr) co_return result<void>{};
  co_return co_await tables_.l2.load(slice);
}

task<result<void>> writer::relieve() {
  if (!tables_.l2.is_crowded() && !counts_.cache().is_crowded()) co_return result<void>{};
  co_return co_await flush();
}

task<error_code> writer::note(error_code code) {
  const error_code corrupt = errc::corrupt_image;
  if (code != corrupt || found_corrupt_) co_return code;
  found_corrupt_ = true;
  if (shape_.version >= 3) {
    tables_.head.incompatible |= incompatible_bit::corrupt;
    std::vector<std::byte> bits(8);
    store_big(bits.data(), tables_.head.incompatible);
    result<void> marked = co_await tables_.file.write(field::incompatible, bits);
    if (marked) marked = co_await tables_.file.flush();
    static_cast<void>(marked);  // the error that matters is the corruption
  }
  co_return code;
}

/// Offset of the L2 table of `l1_index`, which may be changed in place: created or copied if need be.
/// Precondition: the allocation lock is held.
task<result<std::uint64_t>> writer::writable_table(std::uint64_t l1_index) {
  const auto old_table = tables_.l2_table(l1_index);
  if (!old_table) co_return errc::corrupt_image;
  if (*old_table != 0 && (tables_.l1[l1_index] & copied_flag) != 0) co_return *old_table;
  const result<allocator::reservation> place = co_await clusters_.reserve(1);
  if (!place) co_return place.error();
  const std::uint64_t table = shape_.offset_of(place->run.first);
  const result<void> filled = co_await fill_table(table, *old_table);
  if (!filled) {
    const result<void> ignored = co_await clusters_.give_back(place->run);
    static_cast<void>(ignored);
    co_return filled.error();
  }
  tables_.l2.forget({table, shape_.cluster_size()});
  tables_.l1.set(l1_index, encode_data_entry(table));
  tables_.metadata.l2_tables.insert(table);
  if (*old_table != 0) {
    // Shared with a snapshot until now: one reference less.
    tables_.metadata.l2_tables.erase(*old_table);
    clusters_.drop({shape_.cluster_of(*old_table), 1});
  }
  co_return table;
}

/// Writes the whole new table: zeros, or a copy of the shared one. The pass that writes the L1 entry flushes
/// it first.
task<result<void>> writer::fill_table(std::uint64_t new_table, std::uint64_t old_table) {
  if (old_table == 0) co_return co_await write_zeros(tables_.file, {new_table, shape_.cluster_size()});
  std::vector<std::byte> buffer(
      std::min<std::size_t>(static_cast<std::size_t>(shape_.cluster_size()), table_copy_bytes));
  for (std::uint64_t done = 0; done < shape_.cluster_size(); done += buffer.size()) {
    result<void> copied = co_await tables_.file.read(old_table + done, buffer);
    if (copied) copied = co_await tables_.file.write(new_table + done, buffer);
    if (!copied) co_return copied.error();
  }
  co_return result<void>{};
}

/// How many entries from the first on can be served by one contiguous host run, and which.
/// A cluster that reads as zero but is owned is used again in place. If it was data until the last flush, power
/// loss may show what is written there before it is published: as for any write in place, either the old
/// bytes or those under way.
result<writer::need> writer::survey(const placed_slice& at, std::uint64_t first_cluster) const {
  need found;
  for (std::uint64_t index = 0; index < at.count; ++index) {
    const std::uint64_t cluster = first_cluster + index;
    const l2_entry entry = entry_at(at, index);
    if (!tables_.is_sound(entry, cluster)) {
      if (index == 0) return errc::corrupt_image;
      break;
    }
    const bool in_place = entry.kind == entry_kind::data && entry.copied;
    const bool reusable = entry.kind == entry_kind::zero_allocated && entry.copied;
    if (index == 0 && reusable) found.reuse_offset = entry.host_offset;
    if (index > 0 && in_place) break;
    const std::uint64_t next = found.reuse_offset + shape_.offset_of(index);
    if (reusable != (found.reuse_offset != 0) || (reusable && entry.host_offset != next)) break;
    ++found.count;
  }
  return found;
}

allocation writer::describe(byte_range range, const need& wanted, std::uint64_t host_offset) const noexcept {
  const std::uint64_t begin = align_down(range.offset, shape_.cluster_size());
  const byte_range clusters{begin, wanted.count << shape_.cluster_bits};
  const byte_range guest = intersection(clusters, {0, tables_.head.virtual_size});
  const byte_range asked = intersection(range, guest);
  allocation made;
  made.guest = guest;
  made.head = range_between(begin, asked.offset);
  made.tail = range_between(asked.end(), guest.end());
  made.host_offset = host_offset;
  made.token = wanted.reuse_offset != 0 ? reused_token : reserved_token;
  return made;
}

task<result<allocation>> writer::allocate(byte_range range) {
  const result<void> relieved = co_await relieve();
  if (!relieved) co_return relieved.error();
  async_lock::guard lock = co_await allocation_.acquire();
  while (claims_.is_moving(shape_.cluster_of(range.offset))) {
    lock.release();
    co_await claims_.wait_for_move();
    lock = co_await allocation_.acquire();
  }
  if (found_corrupt_) co_return errc::corrupt_image;
  const std::uint64_t l1_index = tables_.place_of(shape_.cluster_of(range.offset)).l1_index;
  const result<std::uint64_t> table = co_await writable_table(l1_index);
  if (!table) co_return table.error();
  const placed_slice at = locate(*table, range);
  const result<void> there = co_await fetch(at.offset);
  if (!there) co_return there.error();
  if (shape_.external_data) co_return place_in_data_file(range, at);
  if (shape_.extended_l2) co_return co_await allocate_subclusters(range, at);
  result<need> wanted = survey(at, shape_.cluster_of(range.offset));
  if (!wanted) co_return wanted.error();
  if (wanted->reuse_offset != 0) co_return describe(range, *wanted, wanted->reuse_offset);
  const result<allocator::reservation> place = co_await clusters_.reserve(wanted->count);
  if (!place) co_return place.error();
  wanted->count = place->run.count;
  allocation made = describe(range, *wanted, shape_.offset_of(place->run.first));
  made.host_is_zero = place->reads_zero;
  co_return made;
}

/// The file reaches `host_end`: a published cluster past the end of the file would count as corrupt. Nobody
/// else writes there, since the last cluster is not published yet.
task<result<void>> writer::reach(std::uint64_t host_end) {
  if (tables_.file.size() >= host_end) co_return result<void>{};
  const std::vector<std::byte> last_byte(1);
  co_return co_await tables_.file.write(host_end - 1, last_byte);
}

/// What lies behind the end of the disk in its last grain reads as zero when the disk grows.
task<result<void>> writer::pad_end(const allocation& reserved) {
  const byte_range grains = align_outward(reserved.guest, shape_.grain_size());
  const std::uint64_t past_the_end = grains.end() - reserved.guest.end();
  if (past_the_end == 0 || reserved.host_is_zero) co_return result<void>{};
  byte_range host{reserved.host_offset + reserved.guest.length, past_the_end};
  if (!tables_.file.capabilities().can_grow) host = intersection(host, {0, tables_.file.size()});
  co_return co_await write_zeros(tables_.file, host);
}

/// The file has room for what was reserved in it. A data file grows by itself.
task<result<void>> writer::reach_end(const allocation& reserved) {
  if (shape_.external_data) co_return result<void>{};
  const result<void> padded = co_await pad_end(reserved);
  if (!padded) co_return padded.error();
  co_return co_await reach(reserved.host_offset + reserved.guest.length);
}

task<result<void>> writer::publish(const allocation& reserved) {
  if (found_corrupt_) co_return errc::corrupt_image;
  if (reserved.encoded_length > 0) co_return co_await publish_encoded(reserved);
  const result<void> reached = co_await reach_end(reserved);
  if (!reached) co_return reached.error();
  const std::uint64_t l1_index = tables_.place_of(shape_.cluster_of(reserved.guest.offset)).l1_index;
  const auto table = tables_.l2_table(l1_index);
  if (!table || *table == 0) co_return errc::corrupt_image;
  const placed_slice at = locate(*table, reserved.guest);
  const result<void> there = co_await fetch(at.offset);
  if (!there) co_return there.error();
  std::byte* entry = tables_.l2.find_for_change(at.offset) + at.index * shape_.l2_entry_bytes();
  const std::uint64_t first = shape_.cluster_of(reserved.guest.offset);
  const std::uint64_t host = align_down(reserved.host_offset, shape_.cluster_size());
  for (std::uint64_t index = 0; index < at.count; ++index) {
    const raw_l2_entry old = load_l2_entry(entry, shape_);
    const std::uint32_t mask = touched_mask(reserved.guest, first + index, shape_);
    const raw_l2_entry now = published_entry(old, mask, host + shape_.offset_of(index), shape_);
    drop_what(old, now);
    store_l2_entry(entry, now, shape_);
    entry += shape_.l2_entry_bytes();
    if (shape_.extended_l2) claims_.end(first + index, true);
  }
  co_return result<void>{};
}

/// Drops the references of an entry that is about to be replaced, unless the new one names the same cluster.
void writer::drop_what(const raw_l2_entry& old, const raw_l2_entry& now) {
  const l2_entry entry = decode_l2_entry(old, shape_);
  const bool same_cluster =
      entry.kind != entry_kind::compressed && entry.host_offset == (now.word & offset_mask);
  if (!same_cluster && tables_.is_sound(entry)) clusters_.drop(referenced_clusters(entry, shape_));
}

task<result<void>> writer::release(const allocation& reserved) {
  if (reserved.encoded_length > 0) co_return co_await release_encoded(reserved);
  const bool has_claims = shape_.extended_l2 && !shape_.external_data;
  if (reserved.token == reused_token && !has_claims) co_return result<void>{};
  const async_lock::guard lock = co_await allocation_.acquire();
  if (shape_.extended_l2) co_return co_await release_subclusters(reserved);
  const cluster_run run{shape_.cluster_of(reserved.host_offset), shape_.clusters_for(reserved.guest.length)};
  co_return co_await clusters_.give_back(run);
}

task<result<void>> writer::flush() {
  const result<void> flushed = co_await flusher_.flush();
  if (!flushed || !clusters_.has_collectable()) co_return flushed;
  const async_lock::guard lock = co_await allocation_.acquire();
  const result<void> ignored = co_await clusters_.collect();  // what stays uncollected is tried again
  static_cast<void>(ignored);
  co_return flushed;
}

task<result<void>> writer::change_backing(std::optional<backing_reference> wanted) {
  return flusher_.change_backing(std::move(wanted));
}

task<result<void>> writer::flush_all() {
  result<void> answer = co_await flush();
  // What the first pass freed is decremented by now; that decrement wants a pass of its own.
  if (answer && flusher_.has_dirty()) answer = co_await flush();
  co_return answer;
}

}  // namespace weir::qcow2
