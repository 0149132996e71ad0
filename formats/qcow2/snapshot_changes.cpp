// The steps of creating, removing and applying a snapshot, with the allocation lock held and nothing dirty.
#include "engine/base/endian.hpp"
#include "formats/qcow2/snapshot_keeper.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace weir::qcow2 {
namespace {

failure explain(error_code code, std::string_view location, std::string_view whose) {
  if (code == errno_code(EOVERFLOW)) {
    return make_failure(code, location,
                        "the reference counts are too narrow to share all clusters once more");
  }
  if (code == errc::corrupt_image) {
    return make_failure(code, location, std::string(whose) + " is damaged: check and repair the image first");
  }
  return make_failure(code, location);
}

std::uint64_t tables_for(std::uint64_t size, const geometry& shape) noexcept {
  return size / shape.table_span() + (size % shape.table_span() != 0 ? 1 : 0);
}

}  // namespace

task<result<snapshot_keeper::l1_entries>> snapshot_keeper::read_l1(const snapshot_entry& entry) {
  entry_table table(entry.l1_offset);
  const result<void> loaded = co_await table.load(tables_.file, entry.l1_count);
  if (!loaded) co_return loaded.error();
  co_return table.entries();
}

/// A copy of the table in a place of its own, COPIED nowhere.
task<result<byte_range>> snapshot_keeper::place_l1(const l1_entries& entries) {
  std::vector<std::byte> bytes(entries.size() * entry_bytes);
  for (std::size_t index = 0; index < entries.size(); ++index) {
    store_big(bytes.data() + index * entry_bytes, entries[index] & ~copied_flag);
  }
  metadata_space space(tables_, writer_->clusters());
  co_return co_await space.place(bytes);
}

task<result<byte_range>> snapshot_keeper::place_table(const std::vector<snapshot_entry>& entries) {
  const result<std::vector<std::byte>> bytes = lay_out_snapshots(entries);
  if (!bytes) co_return errno_code(EFBIG);
  metadata_space space(tables_, writer_->clusters());
  co_return co_await space.place(*bytes);
}

/// Every L2 table is shared from now on.
void snapshot_keeper::share_l1() {
  for (std::uint64_t index = 0; index < tables_.l1.size(); ++index) {
    const std::uint64_t raw = tables_.l1[index];
    if ((raw & copied_flag) != 0) tables_.l1.set(index, raw & ~copied_flag);
  }
}

/// The header names the new table; the old one is free. Precondition: everything the new one leads to is durable.
task<result<void>> snapshot_keeper::switch_table(std::vector<snapshot_entry> entries, byte_range placed) {
  std::array<std::byte, 12> fields{};
  store_big(fields.data(), static_cast<std::uint32_t>(entries.size()));
  store_big(fields.data() + 4, placed.offset);
  result<void> done = co_await tables_.file.write(field::snapshots, fields);
  if (done) done = co_await tables_.file.flush();
  if (!done) co_return done;
  const byte_range old_table = std::exchange(table_, placed);
  entries_ = std::move(entries);
  tables_.head.snapshot_count = static_cast<std::uint32_t>(entries_.size());
  tables_.head.snapshots_offset = placed.offset;
  const geometry& shape = tables_.shape;
  tables_.metadata.snapshots = {placed.offset, shape.clusters_for(placed.length) << shape.cluster_bits};
  metadata_space space(tables_, writer_->clusters());
  const result<void> ignored = co_await space.free(old_table);  // it has happened: at worst space leaks
  static_cast<void>(ignored);
  co_return done;
}

/// For what will not be named after all.
task<void> snapshot_keeper::give_back(byte_range placed) {
  metadata_space space(tables_, writer_->clusters());
  const result<void> ignored = co_await space.free(placed);
  static_cast<void>(ignored);
}

task<outcome<void>> snapshot_keeper::create_held(snapshot_entry made) {
  const std::string& location = tables_.file.location();
  reference_tree tree(tables_, writer_->counts(), writer_->clusters(), writer_->passes());
  const l1_entries active = tables_.l1.entries();
  result<void> done = co_await tree.check(active, true);
  if (!done) co_return explain(done.error(), location, "the mapping");
  const result<byte_range> l1 = co_await place_l1(active);
  if (!l1) co_return make_failure(l1.error(), location);
  made.l1_offset = l1->offset;
  std::vector<snapshot_entry> entries = entries_;
  entries.push_back(std::move(made));
  const result<byte_range> table = co_await place_table(entries);
  if (!table) {
    co_await give_back(*l1);
    co_return make_failure(table.error(), location);
  }
  done = co_await tree.share(active);
  share_l1();
  remapped_();
  if (done) done = co_await writer_->passes().flush();
  if (!done) {
    co_await give_back(*l1);
    co_await give_back(*table);
    co_return make_failure(done.error(), location);
  }
  done = co_await switch_table(std::move(entries), *table);
  if (!done) co_return make_failure(done.error(), location);
  co_return outcome<void>{};
}

task<outcome<void>> snapshot_keeper::remove_held(std::size_t index) {
  const std::string& location = tables_.file.location();
  reference_tree tree(tables_, writer_->counts(), writer_->clusters(), writer_->passes());
  metadata_space space(tables_, writer_->clusters());
  const snapshot_entry removed = entries_[index];
  const result<l1_entries> l1 = co_await read_l1(removed);
  if (!l1) co_return make_failure(l1.error(), location);
  result<void> done = co_await tree.check(*l1, false);
  if (!done) co_return explain(done.error(), location, "snapshot '" + removed.name + "'");
  std::vector<snapshot_entry> entries = entries_;
  entries.erase(entries.begin() + static_cast<std::ptrdiff_t>(index));
  const result<byte_range> table = co_await place_table(entries);
  if (!table) co_return make_failure(table.error(), location);
  done = co_await writer_->passes().flush();
  if (done) done = co_await switch_table(std::move(entries), *table);
  if (done) done = co_await tree.release(*l1);
  const byte_range l1_place{removed.l1_offset, removed.l1_count * entry_bytes};
  if (done) done = co_await space.free(l1_place);
  if (done) done = co_await tree.refresh_copied();
  if (!done) co_return make_failure(done.error(), location);
  co_return outcome<void>{};
}

/// Virtual size and L1 table, in one write.
task<result<void>> snapshot_keeper::switch_l1(byte_range placed, std::uint64_t virtual_size) {
  std::array<std::byte, 24> fields{};
  result<void> done = co_await tables_.file.read(field::virtual_size, fields);
  if (!done) co_return done;
  const auto count = static_cast<std::uint32_t>(placed.length / entry_bytes);
  store_big(fields.data(), virtual_size);
  store_big(fields.data() + field::l1_count - field::virtual_size, count);
  store_big(fields.data() + field::l1_offset - field::virtual_size, placed.offset);
  done = co_await tables_.file.write(field::virtual_size, fields);
  if (done) done = co_await tables_.file.flush();
  if (!done) co_return done;
  tables_.head.virtual_size = virtual_size;
  tables_.head.l1_count = count;
  tables_.head.l1_offset = placed.offset;
  co_return done;
}

/// The tables in memory become those that the header names.
task<result<void>> snapshot_keeper::adopt_l1(byte_range placed) {
  const geometry& shape = tables_.shape;
  tables_.l1 = entry_table(placed.offset);
  const result<void> loaded = co_await tables_.l1.load(tables_.file, placed.length / entry_bytes);
  if (!loaded) co_return loaded;
  tables_.metadata.l1 = {placed.offset, shape.clusters_for(placed.length) << shape.cluster_bits};
  std::vector<std::uint64_t> l2_tables;
  for (const std::uint64_t raw : tables_.l1.entries()) {
    if ((raw & offset_mask) != 0) l2_tables.push_back(raw & offset_mask);
  }
  tables_.metadata.l2_tables = cluster_set(std::move(l2_tables));
  remapped_();
  co_return loaded;
}

task<outcome<void>> snapshot_keeper::apply_held(std::size_t index) {
  const std::string& location = tables_.file.location();
  const snapshot_entry wanted = entries_[index];
  const std::uint64_t virtual_size = wanted.disk_bytes.value_or(tables_.head.virtual_size);
  const std::uint64_t needed = tables_for(virtual_size, tables_.shape);
  if (virtual_size >= std::uint64_t{1} << 63 || needed * entry_bytes > largest_l1_bytes) {
    co_return explain(errc::corrupt_image, location, "snapshot '" + wanted.name + "'");
  }
  reference_tree tree(tables_, writer_->counts(), writer_->clusters(), writer_->passes());
  metadata_space space(tables_, writer_->clusters());
  result<l1_entries> l1 = co_await read_l1(wanted);
  if (!l1) co_return make_failure(l1.error(), location);
  l1->resize(static_cast<std::size_t>(std::max<std::uint64_t>(needed, l1->size())), 0);
  result<void> done = co_await tree.check(*l1, true);
  if (!done) co_return explain(done.error(), location, "snapshot '" + wanted.name + "'");
  const result<byte_range> placed = co_await place_l1(*l1);
  if (!placed) co_return make_failure(placed.error(), location);
  done = co_await tree.share(*l1);
  if (done) done = co_await writer_->passes().flush();
  const l1_entries old_l1 = tables_.l1.entries();
  const byte_range old_place{tables_.l1.offset(), old_l1.size() * entry_bytes};
  if (done) done = co_await switch_l1(*placed, virtual_size);
  if (done) done = co_await adopt_l1(*placed);
  if (done) done = co_await tree.release(old_l1);
  if (done) done = co_await space.free(old_place);
  if (!done) co_return make_failure(done.error(), location);
  co_return outcome<void>{};
}

}  // namespace weir::qcow2
