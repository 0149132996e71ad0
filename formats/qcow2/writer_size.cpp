// Changes of the virtual size, and of everything at once.
//
// Growing: what L2 entries say behind the end of the disk is forgotten, durably, before a larger L1 table takes the
// place of the one that says so; that is written beside the old one and made durable, with the zeros that a longer
// backing image makes necessary; one write of the header's first sector switches size and table; the old table's
// clusters become free. Shrinking: the header first, then what lies behind the new end is forgotten. A power loss leaves the old disk
// or the new one, and at worst clusters that nothing uses.
//
// Nothing else is in flight meanwhile (image.hpp). The L1 table never gets smaller.
#include "engine/base/endian.hpp"
#include "formats/qcow2/writer.hpp"

#include <algorithm>
#include <array>
#include <vector>

namespace weir::qcow2 {

task<outcome<void>> writer::resize(std::uint64_t size, std::uint64_t zero_end) {
  const std::string& location = tables_.file.location();
  const std::uint64_t old_size = tables_.head.virtual_size;
  const bool has_snapshots = tables_.head.snapshot_count > 0;
  if (has_snapshots && size < old_size) {
    co_return make_failure(errc::not_supported, location, "an image with internal snapshots cannot shrink");
  }
  if (has_snapshots && shape_.version < 3) {
    co_return make_failure(errc::not_supported, location,
                           "an image of version 2 with internal snapshots cannot be resized");
  }
  const std::uint64_t most = largest_l1_bytes / entry_bytes * shape_.table_span();
  if (size > most || size > std::uint64_t{1} << 62) {
    co_return make_failure(errno_code(EFBIG), location,
                           "the most that its cluster size can map is " + std::to_string(most) + " bytes");
  }
  const result<void> flushed = co_await flush_all();
  if (!flushed) co_return make_failure(flushed.error(), location);
  if (size < old_size) co_return co_await shrink(size);
  co_return co_await grow(size, zero_end);
}

task<outcome<void>> writer::grow(std::uint64_t size, std::uint64_t zero_end) {
  const std::uint64_t used = shape_.clusters_for(tables_.head.virtual_size);
  const std::uint64_t mapped = tables_.l1.size() * shape_.table_entries();
  result<void> done = co_await resize_data_file(size);
  // Behind the end there may be what a snapshot's machine state left.
  if (done && mapped > used) done = co_await forget({used, mapped - used});
  const std::uint64_t span = shape_.table_span();
  const std::uint64_t tables = size / span + (size % span != 0 ? 1 : 0);
  const cluster_run old_l1{shape_.cluster_of(tables_.l1.offset()),
                           shape_.clusters_for(tables_.l1.size() * entry_bytes)};
  const std::uint64_t old_count = tables_.l1.size();
  const bool moves = tables > old_count;
  if (done && moves) done = co_await flush_all();
  if (done && moves) done = co_await move_l1(tables);
  if (done) done = co_await clear_last_cluster();
  if (done && shape_.version >= 3) done = co_await zero_behind_end(zero_end);
  if (done) done = co_await flush_all();
  if (done) done = co_await record_size(size);
  // Which table the header names is not known then: nothing may change any more.
  if (!done && moves) found_corrupt_ = true;
  if (done && moves && old_l1.count > 0) clusters_.drop(old_l1);
  if (done) done = co_await flush_all();
  if (!done) co_return make_failure(done.error(), tables_.file.location());
  co_return outcome<void>{};
}

task<outcome<void>> writer::shrink(std::uint64_t size) {
  result<void> done = co_await record_size(size);
  const std::uint64_t kept = shape_.clusters_for(size);
  const std::uint64_t mapped = tables_.l1.size() * shape_.table_entries();
  if (done && mapped > kept) done = co_await forget({kept, mapped - kept});
  if (done) done = co_await flush_all();
  if (done) done = co_await trim();
  if (done) done = co_await resize_data_file(size);
  if (!done) co_return make_failure(done.error(), tables_.file.location());
  co_return outcome<void>{};
}

task<result<void>> writer::make_empty() {
  result<void> done = co_await flush_all();
  const std::uint64_t mapped = tables_.l1.size() * shape_.table_entries();
  if (done) done = co_await forget({0, mapped});
  if (done) done = co_await flush_all();
  if (done) done = co_await trim();
  if (done) co_await give_up_data({0, tables_.head.virtual_size});
  co_return done;
}

/// What the cluster at the end held behind it before the disk was shortened reads as zero, while nobody sees it. A part
/// of a compressed cluster cannot: it is left to the caller. A data file ends where the disk does.
task<result<void>> writer::clear_last_cluster() {
  const std::uint64_t first = align_up(tables_.head.virtual_size, shape_.grain_size());
  const byte_range behind = range_between(first, align_up(first, shape_.cluster_size()));
  if (shape_.external_data) co_return result<void>{};
  co_return co_await change_entries(behind, entry_change::discard);
}

/// Grains behind the end become zeros that hide the backing image, while nobody sees them.
task<result<void>> writer::zero_behind_end(std::uint64_t zero_end) {
  const std::uint64_t first = align_up(tables_.head.virtual_size, shape_.grain_size());
  if (zero_end <= first || !tables_.head.backing) co_return result<void>{};
  co_return co_await change_entries(range_between(first, align_up(zero_end, shape_.cluster_size())),
                                    entry_change::zero_and_free);
}

/// A larger L1 table in a place of its own; the header still names the old one.
task<result<void>> writer::move_l1(std::uint64_t count) {
  async_lock::guard lock = co_await allocation_.acquire();
  const result<cluster_run> place = co_await clusters_.reserve_run(shape_.clusters_for(count * entry_bytes));
  lock.release();
  if (!place) co_return place.error();
  const byte_range host{shape_.offset_of(place->first), place->count << shape_.cluster_bits};
  const result<void> zeroed = co_await write_zeros(tables_.file, host);
  if (!zeroed) co_return zeroed.error();
  tables_.l1.move(host.offset, count);
  tables_.metadata.l1 = host;
  co_return result<void>{};
}

/// Size and L1 table, in one write of one sector.
task<result<void>> writer::record_size(std::uint64_t size) {
  std::array<std::byte, field::l1_offset + 8 - field::virtual_size> fields{};
  result<void> done = co_await tables_.file.read(field::virtual_size, fields);
  if (!done) co_return done;
  store_big(fields.data(), size);
  store_big(fields.data() + field::l1_count - field::virtual_size,
            static_cast<std::uint32_t>(tables_.l1.size()));
  store_big(fields.data() + field::l1_offset - field::virtual_size, tables_.l1.offset());
  done = co_await tables_.file.write(field::virtual_size, fields);
  if (done) done = co_await tables_.file.flush();
  if (!done) co_return done;
  tables_.head.virtual_size = size;
  tables_.head.l1_count = static_cast<std::uint32_t>(tables_.l1.size());
  tables_.head.l1_offset = tables_.l1.offset();
  co_return done;
}

/// The guest clusters become unallocated; tables that map nothing else go. Precondition: nothing is dirty.
task<result<void>> writer::forget(cluster_run guest) {
  std::vector<std::uint64_t> gone;
  const result<void> done = co_await forget_range(guest, gone);
  // No flush was between, so none of them can have been given away as data.
  tables_.metadata.l2_tables.erase(std::move(gone));
  co_return done;
}

/// Says which tables are gone.
task<result<void>> writer::forget_range(cluster_run guest, std::vector<std::uint64_t>& gone) {
  const std::uint64_t per_table = shape_.table_entries();
  for (std::uint64_t at = guest.first; at < guest.end();) {
    const std::uint64_t l1_index = at / per_table;
    const std::uint64_t end = std::min((l1_index + 1) * per_table, guest.end());
    const auto table = tables_.l2_table(l1_index);
    if (!table) co_return errc::corrupt_image;
    result<void> done;
    if (*table != 0 && end - at == per_table) {
      done = co_await forget_table(l1_index, *table);
      if (done) gone.push_back(*table);
    } else if (*table != 0) {
      const byte_range part{shape_.offset_of(at), shape_.offset_of(end - at)};
      done = co_await forget_entries(l1_index, part);
    }
    if (!done) co_return done;
    at = end;
  }
  co_return result<void>{};
}

/// A whole table and what it maps.
task<result<void>> writer::forget_table(std::uint64_t l1_index, std::uint64_t table) {
  // All of it is read before any of it is given up: the entry goes with what it leads to, or nothing does.
  std::vector<cluster_run> named;
  for (std::uint64_t slice = table; slice < table + shape_.cluster_size(); slice += shape_.slice_size()) {
    const result<void> there = co_await fetch(slice);
    if (!there) co_return there.error();
    const std::byte* entries = tables_.l2.find(slice);
    for (std::uint64_t index = 0; index < shape_.slice_entries(); ++index) {
      const raw_l2_entry raw = load_l2_entry(entries + index * shape_.l2_entry_bytes(), shape_);
      const l2_entry entry = decode_l2_entry(raw, shape_);
      if (tables_.is_sound(entry)) named.push_back(referenced_clusters(entry, shape_));
    }
  }
  for (const cluster_run run : named) clusters_.drop(run);
  tables_.l2.forget({table, shape_.cluster_size()});
  tables_.l1.set(l1_index, 0);
  clusters_.drop({shape_.cluster_of(table), 1});
  co_return result<void>{};
}

/// Entries of one table, which stays.
task<result<void>> writer::forget_entries(std::uint64_t l1_index, byte_range guest) {
  async_lock::guard lock = co_await allocation_.acquire();
  const result<std::uint64_t> table = co_await writable_table(l1_index);
  lock.release();
  if (!table) co_return table.error();
  while (!guest.empty()) {
    const placed_slice at = locate(*table, guest);
    const result<void> there = co_await fetch(at.offset);
    if (!there) co_return there.error();
    std::byte* entries = tables_.l2.find_for_change(at.offset) + at.index * shape_.l2_entry_bytes();
    for (std::uint64_t index = 0; index < at.count; ++index) {
      std::byte* entry = entries + index * shape_.l2_entry_bytes();
      drop_what(load_l2_entry(entry, shape_), raw_l2_entry{});
      store_l2_entry(entry, raw_l2_entry{}, shape_);
    }
    guest = range_between(guest.offset + shape_.offset_of(at.count), guest.end());
  }
  co_return result<void>{};
}

/// Gives the end of the file back where nothing uses it. Precondition: nothing is dirty.
task<result<void>> writer::trim() {
  if (!tables_.file.capabilities().can_grow) co_return result<void>{};
  const async_lock::guard lock = co_await allocation_.acquire();
  std::uint64_t end = shape_.clusters_for(tables_.file.size());
  while (end > 0) {
    const result<std::uint64_t> count = co_await counts_.get(end - 1);
    if (!count) co_return count.error();
    if (*count > 0) break;
    --end;
  }
  if (shape_.offset_of(end) >= tables_.file.size()) co_return result<void>{};
  const result<void> cut = co_await tables_.file.truncate(shape_.offset_of(end));
  if (!cut) co_return cut.error();
  co_return co_await tables_.file.flush();
}

}  // namespace weir::qcow2
