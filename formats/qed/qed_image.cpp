#include "formats/qed/qed_image.hpp"

#include "engine/base/endian.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <utility>

namespace weir::qed {
namespace {

std::uint64_t load_entry(const std::byte* slice, std::uint64_t index) noexcept {
  return load_little<std::uint64_t>(slice + index * entry_bytes);
}

void store_entry(std::byte* slice, std::uint64_t index, std::uint64_t value) noexcept {
  store_little(slice + index * entry_bytes, value);
}

}  // namespace

qed_image::qed_image(executor context, opened_parts parts)
    : file_(std::move(parts.file)),
      shape_(parts.fields.shape),
      image_bytes_(parts.fields.image_bytes),
      writable_(parts.options.writable),
      header_(context, *file_, parts.fields, std::move(parts.backing)),
      space_(std::move(parts.space)),
      free_(file_->size(), shape_.cluster_bytes),
      slices_(context, *file_, slice_bytes, parts.options.metadata_cache_bytes),
      writer_(context, *file_, slices_),
      adding_table_(context) {}

std::vector<image_fact> qed_image::facts() const {
  return {{"cluster-size", shape_.cluster_bytes},
          {"table-size", shape_.table_clusters},
          {"dirty-flag", header_.current().has(feature::need_check)}};
}

// Looking up

bool qed_image::is_data(std::uint64_t entry) const noexcept {
  return entry != unallocated_entry && entry != zero_entry && space_.may_be_data(entry, file_->size());
}

extent qed_image::unallocated_tables(byte_range range, entry_position first, const std::byte* slice) const {
  std::uint64_t end = (shape_.l1_index(range.offset) + 1) * shape_.table_span();
  for (std::uint64_t index = first.index + 1; index < slice_entries && end < range.end(); ++index) {
    if (load_entry(slice, index) != unallocated_entry) break;
    end += shape_.table_span();
  }
  extent found;
  found.kind = extent_kind::unallocated;
  found.length = std::min(end, range.end()) - range.offset;
  return found;
}

result<extent> qed_image::describe(byte_range range, entry_position first, const std::byte* slice) const {
  const std::uint64_t entry = load_entry(slice, first.index);
  extent found;
  if (entry == unallocated_entry) {
    found.kind = extent_kind::unallocated;
  } else if (entry == zero_entry) {
    found.kind = extent_kind::zero;
  } else if (is_data(entry)) {
    found.kind = extent_kind::data;
    found.in_place = writable_;
    found.host_offset = entry + range.offset % shape_.cluster_bytes;
  } else {
    return errc::corrupt_image;
  }
  const std::uint64_t step = found.kind == extent_kind::data ? shape_.cluster_bytes : 0;
  std::uint64_t expected = entry + step;
  std::uint64_t end = align_down(range.offset, shape_.cluster_bytes) + shape_.cluster_bytes;
  for (std::uint64_t index = first.index + 1; index < slice_entries && end < range.end(); ++index) {
    if (load_entry(slice, index) != expected || (step != 0 && !is_data(expected))) break;
    expected += step;
    end += shape_.cluster_bytes;
  }
  found.length = std::min(end, range.end()) - range.offset;
  return found;
}

qed_image::lookup qed_image::look_up(byte_range range) {
  const entry_position upper = entry_at(space_.l1_offset(), shape_.l1_index(range.offset));
  const std::byte* const l1 = slices_.find(upper.slice);
  if (l1 == nullptr) return {std::nullopt, upper.slice};
  const std::uint64_t table = load_entry(l1, upper.index);
  if (table == unallocated_entry) return {unallocated_tables(range, upper, l1)};
  if (!space_.is_sound_table(table)) return {result<extent>(errc::corrupt_image)};
  const entry_position lower = entry_at(table, shape_.l2_index(range.offset));
  const std::byte* const l2 = slices_.find(lower.slice);
  if (l2 == nullptr) return {std::nullopt, lower.slice};
  return {describe(range, lower, l2)};
}

task<result<extent>> qed_image::do_map(byte_range range, map_effort) {
  for (;;) {
    lookup found = look_up(range);
    if (found.answer) co_return *found.answer;
    const result<void> loaded = co_await slices_.load(found.missing_slice);
    if (!loaded) co_return loaded.error();
  }
}

std::optional<result<extent>> qed_image::do_try_map(byte_range range, map_effort) {
  return look_up(range).answer;
}

// Tables

task<result<std::uint64_t>> qed_image::find_table(std::uint64_t offset) {
  const entry_position at = entry_at(space_.l1_offset(), shape_.l1_index(offset));
  const result<void> loaded = co_await slices_.load(at.slice);
  if (!loaded) co_return loaded.error();
  const std::uint64_t table = load_entry(slices_.find(at.slice), at.index);
  if (table != unallocated_entry && !space_.is_sound_table(table)) co_return errc::corrupt_image;
  co_return table;
}

task<result<std::uint64_t>> qed_image::need_table(std::uint64_t offset) {
  const result<std::uint64_t> found = co_await find_table(offset);
  if (!found || *found != unallocated_entry) co_return found;
  const auto held = co_await adding_table_.acquire();
  // Another task may have added it meanwhile.
  const result<std::uint64_t> again = co_await find_table(offset);
  if (!again || *again != unallocated_entry) co_return again;
  const result<std::uint64_t> added = co_await add_table();
  if (!added) co_return added;
  const entry_position at = entry_at(space_.l1_offset(), shape_.l1_index(offset));
  const result<void> loaded = co_await slices_.load(at.slice);
  if (!loaded) co_return loaded.error();
  store_entry(slices_.find_for_change(at.slice), at.index, *added);
  co_return added;
}

task<result<std::uint64_t>> qed_image::add_table() {
  if (!file_->capabilities().can_grow) co_return errno_code(ENOSPC);
  const std::optional<free_space::piece> place = free_.take_fresh(shape_.table_bytes());
  if (!place) co_return errno_code(EFBIG);
  // Recorded before the file reaches it, so that no entry from the disk can be taken for data there.
  space_.append_table(place->host.offset);
  const result<void> covered = co_await cover(place->host);
  if (!covered) co_return covered.error();
  co_return place->host.offset;
}

byte_range qed_image::within_slice(byte_range range) const noexcept {
  const std::uint64_t span = slice_entries * shape_.cluster_bytes;
  const std::uint64_t end = (range.offset / span + 1) * span;
  return range_between(range.offset, std::min(range.end(), end));
}

qed_image::entry_run qed_image::entries_of(std::uint64_t table, byte_range range) const noexcept {
  const byte_range clusters = align_outward(range, shape_.cluster_bytes);
  return {entry_at(table, shape_.l2_index(range.offset)), clusters.length / shape_.cluster_bytes};
}

// Allocating

task<result<allocation>> qed_image::do_allocate(byte_range range) {
  if (!file_->capabilities().can_grow) co_return errno_code(ENOSPC);
  const result<void> marked = co_await header_.mark_in_use();
  if (!marked) co_return marked.error();
  const result<std::uint64_t> table = co_await need_table(range.offset);
  if (!table) co_return table.error();
  range = within_slice(range);
  const result<std::uint64_t> count = co_await count_without_data(*table, range);
  if (!count) co_return count.error();
  co_return reserve(range, *count);
}

task<result<std::uint64_t>> qed_image::count_without_data(std::uint64_t table, byte_range range) {
  const entry_run run = entries_of(table, range);
  const result<void> loaded = co_await slices_.load(run.first.slice);
  if (!loaded) co_return loaded.error();
  const std::byte* const slice = slices_.find(run.first.slice);
  std::uint64_t count = 0;
  while (count < run.count && load_entry(slice, run.first.index + count) <= zero_entry) ++count;
  if (count == 0) co_return errc::corrupt_image;
  co_return count;
}

result<allocation> qed_image::reserve(byte_range range, std::uint64_t cluster_count) {
  const auto place = free_.take(cluster_count * shape_.cluster_bytes);
  if (!place) return errno_code(EFBIG);
  const std::uint64_t first = align_down(range.offset, shape_.cluster_bytes);
  const std::uint64_t last = std::min(first + place->host.length, image_bytes_);
  allocation reserved;
  reserved.guest = range_between(first, last);
  reserved.head = range_between(first, range.offset);
  reserved.tail = range_between(std::min(range.end(), last), last);
  reserved.host_is_zero = place->is_fresh;
  reserved.host_offset = place->host.offset;
  reserved.token = place->host.length;
  return reserved;
}

task<result<void>> qed_image::cover(byte_range host) {
  // Entries must point inside the file. The range is the caller's alone and all its writes have been answered:
  // what lies past the file's end was never written.
  const std::uint64_t size = file_->size();
  if (size >= host.end()) co_return result<void>{};
  const std::uint64_t first = std::max(size, host.end() - sector_bytes);
  const std::vector<std::byte> zeros(static_cast<std::size_t>(host.end() - first));
  co_return co_await file_->write(first, zeros);
}

task<result<void>> qed_image::make_room() {
  if (!slices_.is_crowded()) co_return result<void>{};
  co_return co_await writer_.flush();
}

task<result<allocation>> qed_image::do_allocate_encoded(byte_range, std::uint64_t) {
  co_return errc::not_supported;
}

task<result<void>> qed_image::do_publish(const allocation& reserved) {
  const result<void> room = co_await make_room();
  if (!room) co_return room.error();
  const byte_range host{reserved.host_offset, reserved.token};
  const result<void> covered = co_await cover(host);
  if (!covered) co_return covered.error();
  const result<std::uint64_t> table = co_await find_table(reserved.guest.offset);
  if (!table) co_return table.error();
  if (*table == unallocated_entry) co_return errc::corrupt_image;
  const entry_run run = entries_of(*table, reserved.guest);
  const result<void> loaded = co_await slices_.load(run.first.slice);
  if (!loaded) co_return loaded.error();
  std::byte* const slice = slices_.find_for_change(run.first.slice);
  for (std::uint64_t index = 0; index < run.count; ++index) {
    store_entry(slice, run.first.index + index, host.offset + index * shape_.cluster_bytes);
  }
  co_return result<void>{};
}

task<result<void>> qed_image::do_release(const allocation& reserved) {
  free_.give_back({reserved.host_offset, reserved.token});
  co_return result<void>{};
}

// Zeroing

task<result<void>> qed_image::zero_entries(entry_run run, bool only_data) {
  const result<void> room = co_await make_room();
  if (!room) co_return room.error();
  const result<void> loaded = co_await slices_.load(run.first.slice);
  if (!loaded) co_return loaded.error();
  const std::byte* const before = slices_.find(run.first.slice);
  const auto changes = [&](std::uint64_t entry) {
    return entry != zero_entry && !(only_data && entry == unallocated_entry);
  };
  for (std::uint64_t index = run.first.index; index < run.first.index + run.count; ++index) {
    if (!changes(load_entry(before, index))) continue;
    store_entry(slices_.find_for_change(run.first.slice), index, zero_entry);
  }
  co_return result<void>{};
}

task<result<void>> qed_image::do_zero(byte_range range, zero_mode) {
  const result<void> marked = co_await header_.mark_in_use();
  if (!marked) co_return marked.error();
  while (!range.empty()) {
    const byte_range part = within_slice(range);
    const result<std::uint64_t> table = co_await need_table(part.offset);
    if (!table) co_return table.error();
    const entry_run run = entries_of(*table, part);
    const result<void> zeroed = co_await zero_entries(run, false);
    if (!zeroed) co_return zeroed.error();
    range = range_between(part.end(), range.end());
  }
  co_return result<void>{};
}

task<result<void>> qed_image::do_discard(byte_range range) {
  const result<void> marked = co_await header_.mark_in_use();
  if (!marked) co_return marked.error();
  while (!range.empty()) {
    const result<std::uint64_t> table = co_await find_table(range.offset);
    if (!table) co_return table.error();
    byte_range part = within_slice(range);
    if (*table == unallocated_entry) {
      const std::uint64_t end = (shape_.l1_index(range.offset) + 1) * shape_.table_span();
      part = range_between(range.offset, std::min(range.end(), end));
    } else {
      // What was never allocated keeps reading as the backing image: a discard may change nothing.
      const entry_run run = entries_of(*table, part);
      const result<void> zeroed = co_await zero_entries(run, true);
      if (!zeroed) co_return zeroed.error();
    }
    range = range_between(part.end(), range.end());
  }
  co_return result<void>{};
}

// Durability

task<result<void>> qed_image::do_flush() {
  return writer_.flush();
}

task<result<void>> qed_image::do_set_backing(std::optional<backing_reference> reference) {
  if (reference && reference->name.size() > longest_backing_name) co_return errc::name_too_long;
  if (reference && !is_recordable(reference->name)) co_return errno_code(EINVAL);
  const result<void> flushed = co_await writer_.flush();
  if (!flushed) co_return flushed.error();
  const result<void> recorded = co_await header_.record_backing(std::move(reference));
  if (recorded) bump_epoch();
  co_return recorded;
}

task<result<void>> qed_image::clear_entries(std::uint64_t table, std::uint64_t first, std::uint64_t end) {
  while (first < end) {
    const entry_position at = entry_at(table, first);
    const std::uint64_t count = std::min(end - first, slice_entries - at.index);
    const result<void> room = co_await make_room();
    if (!room) co_return room.error();
    const result<void> loaded = co_await slices_.load(at.slice);
    if (!loaded) co_return loaded.error();
    const std::byte* const before = slices_.find(at.slice);
    for (std::uint64_t index = at.index; index < at.index + count; ++index) {
      if (load_entry(before, index) == unallocated_entry) continue;
      store_entry(slices_.find_for_change(at.slice), index, unallocated_entry);
    }
    first += count;
  }
  co_return result<void>{};
}

/// Entries behind the end of the disk have meant nothing until now and may hold anything.
task<result<void>> qed_image::clear_behind_end() {
  const std::uint64_t tables = shape_.l1_entries(image_bytes_);
  const result<void> cleared = co_await clear_entries(space_.l1_offset(), tables, shape_.table_entries());
  if (!cleared || tables == 0) co_return cleared;
  const result<std::uint64_t> last = co_await find_table(image_bytes_ - 1);
  if (!last) co_return last.error();
  if (*last == unallocated_entry) co_return result<void>{};
  const std::uint64_t used = shape_.l2_entries(tables - 1, image_bytes_);
  co_return co_await clear_entries(*last, used, shape_.table_entries());
}

task<outcome<void>> qed_image::do_resize(std::uint64_t size, std::uint64_t zero_end) {
  const std::string& location = file_->location();
  if (size < image_bytes_) {
    co_return make_failure(errc::not_supported, location, "a QED image cannot shrink");
  }
  const std::uint64_t largest = largest_image_bytes(shape_);
  if (size > largest) {
    co_return make_failure(errno_code(EFBIG), location,
                           "its tables can map " + std::to_string(largest) + " bytes at most");
  }
  result<void> done = co_await header_.mark_in_use();
  if (done) done = co_await clear_behind_end();
  const byte_range zeros =
      range_between(std::min(align_up(image_bytes_, shape_.cluster_bytes), zero_end), zero_end);
  if (done) done = co_await do_zero(zeros, zero_mode::may_punch);
  if (done) done = co_await writer_.flush();
  if (done) done = co_await header_.record_size(size);
  if (!done) co_return make_failure(done.error(), location);
  image_bytes_ = size;
  co_return outcome<void>{};
}

/// The tables go first: what they pointed to leaks until the file is cut off behind the L1 table.
task<outcome<void>> qed_image::do_make_empty() {
  const std::string& location = file_->location();
  result<void> done = co_await header_.mark_in_use();
  if (done) done = co_await clear_entries(space_.l1_offset(), 0, shape_.table_entries());
  if (done) done = co_await writer_.flush();
  if (!done) co_return make_failure(done.error(), location);
  slices_.forget({0, file_->size()});
  const std::uint64_t end = space_.l1_offset() + shape_.table_bytes();
  done = co_await file_->truncate(end);
  if (done) done = co_await file_->flush();
  if (!done && done.error() != errc::not_supported) co_return make_failure(done.error(), location);
  if (done) free_ = free_space(end, shape_.cluster_bytes);
  space_.set_tables({});
  co_return outcome<void>{};
}

task<result<void>> qed_image::do_close() {
  result<void> done;
  if (writable_) done = co_await writer_.flush();
  if (writable_ && done) done = co_await header_.mark_clean();
  const result<void> closed = co_await file_->close();
  if (!done) co_return done.error();
  co_return closed;
}

}  // namespace weir::qed
