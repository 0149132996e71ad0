// The steps of storing bitmaps.
#include "engine/base/endian.hpp"
#include "formats/qcow2/bitmap_keeper.hpp"
#include "formats/qcow2/header_bitmaps.hpp"
#include "formats/qcow2/metadata_space.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>
#include <utility>

namespace weir::qcow2 {
namespace {

bool is_all(std::span<const std::byte> bytes, std::byte value) {
  return std::ranges::all_of(bytes, [value](std::byte each) { return each == value; });
}

/// An entry whose bits stay where they are.
bitmap_entry unchanged(const bitmap_entry& stored, const kept_bitmap& kept) {
  bitmap_entry made = stored;
  const std::uint32_t others = stored.flags & ~(bitmap_flag::in_use | bitmap_flag::automatic);
  made.flags = others | (kept.inconsistent && kept.in_use ? bitmap_flag::in_use : 0) |
               (kept.enabled ? bitmap_flag::automatic : 0);
  return made;
}

}  // namespace

task<outcome<void>> bitmap_keeper::do_store(std::span<const kept_bitmap> bitmaps) {
  if (writer_ == nullptr) co_return make_failure(errc::read_only, location());
  async_lock::guard lock = co_await writer_->lock_allocation();
  const result<void> done = co_await store_held(bitmaps);
  lock.release();
  if (done) co_return outcome<void>{};
  if (done.error() == errc::name_too_long) {
    co_return make_failure(done.error(), location(), "the header has no room for bitmaps");
  }
  co_return make_failure(done.error(), location(),
                         "the bitmaps could not be stored: " + done.error().message());
}

task<result<void>> bitmap_keeper::store_held(std::span<const kept_bitmap> bitmaps) {
  std::vector<std::uint64_t> fresh;
  std::vector<bitmap_entry> entries;
  result<void> done;
  for (const kept_bitmap& each : bitmaps) {
    const bitmap_entry* before = stored(each.name);
    if (before != nullptr && (!each.changed || each.inconsistent)) {
      entries.push_back(unchanged(*before, each));
      continue;
    }
    const result<bitmap_entry> placed = co_await place_bits(each, fresh);
    if (!placed) {
      done = placed.error();
      break;
    }
    entries.push_back(*placed);
  }
  const std::vector<bitmap_entry> old_entries = entries_;
  const byte_range old_directory = directory_;
  if (done) done = co_await write_entries(entries, fresh);
  if (done) co_return co_await free_old(old_entries, old_directory);
  const result<void> ignored = co_await writer_->clusters().release_now(fresh);
  static_cast<void>(ignored);
  co_return done;
}

/// Bits and table of one bitmap, in space of their own.
task<result<bitmap_entry>> bitmap_keeper::place_bits(const kept_bitmap& bitmap,
                                                     std::vector<std::uint64_t>& fresh) {
  const geometry& shape = tables_.shape;
  const auto granularity_bits = static_cast<unsigned>(std::countr_zero(bitmap.granularity));
  const std::uint64_t count = bitmap_table_count(disk_size(), granularity_bits, shape);
  std::vector<std::byte> table(static_cast<std::size_t>(count * entry_bytes));
  std::vector<std::byte> bits(static_cast<std::size_t>(shape.cluster_size()));
  for (std::uint64_t index = 0; index < count; ++index) {
    bitmap.bits->copy_bits(index * bits.size() * 8, bits);
    std::uint64_t raw = is_all(bits, std::byte{0xff}) ? all_bits_set_entry : 0;
    if (raw == 0 && !is_all(bits, std::byte{0})) {
      const result<std::uint64_t> placed = co_await place_cluster(bits, fresh);
      if (!placed) co_return placed.error();
      raw = *placed;
    }
    store_big(table.data() + index * entry_bytes, raw);
  }
  const result<byte_range> placed = co_await place_table(table, fresh);
  if (!placed) co_return placed.error();
  co_return bitmap_entry{.table_offset = placed->offset,
                         .table_count = static_cast<std::uint32_t>(count),
                         .flags = bitmap.enabled ? bitmap_flag::automatic : 0,
                         .granularity_bits = static_cast<std::uint8_t>(granularity_bits),
                         .name = bitmap.name};
}

task<result<std::uint64_t>> bitmap_keeper::place_cluster(std::span<const std::byte> bits,
                                                         std::vector<std::uint64_t>& fresh) {
  const result<allocator::reservation> place = co_await writer_->clusters().reserve(1);
  if (!place) co_return place.error();
  fresh.push_back(place->run.first);
  const std::uint64_t offset = tables_.shape.offset_of(place->run.first);
  const result<void> wrote = co_await tables_.file.write(offset, bits);
  if (!wrote) co_return wrote.error();
  co_return offset;
}

task<result<byte_range>> bitmap_keeper::place_table(std::span<const std::byte> bytes,
                                                    std::vector<std::uint64_t>& fresh) {
  metadata_space space(tables_, writer_->clusters());
  const result<byte_range> placed = co_await space.place(bytes);
  if (!placed) co_return placed.error();
  const cluster_run run = space.clusters_of(*placed);
  for (std::uint64_t cluster = run.first; cluster < run.end(); ++cluster) fresh.push_back(cluster);
  co_return *placed;
}

/// The directory and the switch to it. Once the header may name it, `fresh` is empty: nothing is given back.
task<result<void>> bitmap_keeper::write_entries(const std::vector<bitmap_entry>& entries,
                                                std::vector<std::uint64_t>& fresh) {
  const std::vector<std::byte> bytes = lay_out_bitmap_directory(entries);
  if (bytes.size() > largest_bitmap_directory_bytes) co_return errno_code(EFBIG);
  const result<byte_range> placed = co_await place_table(bytes, fresh);
  if (!placed) co_return placed.error();
  std::optional<bitmaps_place> wanted;
  if (!entries.empty()) wanted = bitmaps_place{static_cast<std::uint32_t>(entries.size()), *placed};
  bool switching = false;
  const header_plan plan = [&](std::span<const std::byte> cluster, const header& current) {
    result<std::vector<header_step>> steps = plan_bitmaps_change(cluster, current, wanted);
    switching = steps.has_value();
    return steps;
  };
  const result<void> done = co_await writer_->passes().change_header(plan);
  if (switching) fresh.clear();
  if (!done) co_return done;
  const std::uint64_t others = tables_.head.autoclear & ~bitmaps_bit;
  tables_.head.autoclear = others | (wanted ? bitmaps_bit : 0);
  adopt_entries(entries);
  directory_ = *placed;
  co_return done;
}

/// What the old directory named and the new one does not. Damaged tables keep what they named: a leak.
task<result<void>> bitmap_keeper::free_old(std::vector<bitmap_entry> old_entries, byte_range old_directory) {
  metadata_space space(tables_, writer_->clusters());
  for (const bitmap_entry& old : old_entries) {
    const bitmap_entry* kept = stored(old.name);
    if (kept != nullptr && kept->table_offset == old.table_offset) continue;
    const byte_range place{old.table_offset, old.table_count * entry_bytes};
    const bool readable = is_aligned(place.offset, tables_.shape.cluster_size()) &&
                          place.length <= largest_bitmap_bytes &&
                          fits(place.offset, place.length, tables_.file.size());
    if (!readable) continue;
    const result<std::vector<std::uint64_t>> table = co_await read_table(old);
    if (!table) co_return table.error();
    std::vector<std::uint64_t> clusters;
    for (const std::uint64_t raw : *table) {
      const bitmap_table_entry part = decode_bitmap_table_entry(raw, tables_.shape);
      const bool in_file = part.host_offset < tables_.file.size();
      if (part.kind == bitmap_cluster::stored && in_file) {
        clusters.push_back(tables_.shape.cluster_of(part.host_offset));
      }
    }
    result<void> done = co_await writer_->clusters().release_now(clusters);
    if (done) done = co_await space.free(place);
    if (!done) co_return done;
  }
  co_return co_await space.free(old_directory);
}

}  // namespace weir::qcow2
