// An open QED image (images.md section 4).
//
// Clusters are only ever added at the end of the file. There are no reference counts and no free list: a
// cluster that loses its entry leaks, so extents never move under their readers and pins have nothing to do.
//
// Crash safety: the need-check bit is durable before the first change of a table, table_writer orders data,
// tables and pointers, and close() clears the bit once everything is durable. What a power loss leaves is
// therefore always consistent; an image opened for writing with the bit set is checked all the same, since
// others wrote it too.
#pragma once

#include "engine/block/format_table.hpp"
#include "engine/block/image.hpp"
#include "formats/qcow2/async_lock.hpp"
#include "formats/qcow2/slice_cache.hpp"
#include "formats/qed/header_store.hpp"
#include "formats/qed/layout.hpp"
#include "formats/qed/table_writer.hpp"

#include <memory>

namespace weir::qed {

/// What opening found out.
struct opened_parts {
  std::unique_ptr<storage> file;
  header fields;
  std::optional<backing_reference> backing;
  occupancy space;
  image_open_options options;
};

class qed_image final : public image {
 public:
  qed_image(executor context, opened_parts parts);

  std::string_view format() const noexcept override { return "qed"; }
  std::uint64_t virtual_size() const noexcept override { return image_bytes_; }
  std::uint64_t grain() const noexcept override { return shape_.cluster_bytes; }
  bool writable() const noexcept override { return writable_; }
  bool zeroes_fast() const noexcept override { return writable_; }
  const std::optional<backing_reference>& backing() const noexcept override { return header_.backing(); }
  std::vector<image_fact> facts() const override;
  snapshot_store* snapshots() noexcept override { return nullptr; }
  bitmap_store* bitmaps() noexcept override { return nullptr; }
  std::optional<unit_encoding> encoding() const noexcept override { return std::nullopt; }
  storage& storage_at(std::uint8_t) noexcept override { return *file_; }

 private:
  /// The cached answer, or the slice that is missing for it.
  struct lookup {
    std::optional<result<extent>> answer;
    std::uint64_t missing_slice = 0;
  };
  /// Consecutive L2 entries of one slice.
  struct entry_run {
    entry_position first;
    std::uint64_t count = 0;
  };

  task<result<extent>> do_map(byte_range range, map_effort effort) override;
  std::optional<result<extent>> do_try_map(byte_range range, map_effort effort) override;
  task<result<allocation>> do_allocate(byte_range range) override;
  task<result<allocation>> do_allocate_encoded(byte_range unit, std::uint64_t byte_length) override;
  task<result<void>> do_publish(const allocation& reserved) override;
  task<result<void>> do_release(const allocation& reserved) override;
  task<result<void>> do_zero(byte_range range, zero_mode mode) override;
  task<result<void>> do_discard(byte_range range) override;
  task<result<void>> do_flush() override;
  task<result<void>> do_set_backing(std::optional<backing_reference> reference) override;
  task<outcome<void>> do_resize(std::uint64_t size, std::uint64_t zero_end) override;
  task<outcome<void>> do_make_empty() override;
  task<result<void>> do_close() override;

  lookup look_up(byte_range range);
  extent unallocated_tables(byte_range range, entry_position first, const std::byte* slice) const;
  result<extent> describe(byte_range range, entry_position first, const std::byte* slice) const;
  bool is_data(std::uint64_t entry) const noexcept;

  /// Offset of the L2 table for the guest offset; 0 where there is none.
  task<result<std::uint64_t>> find_table(std::uint64_t offset);
  /// The same, adding a table where there is none.
  task<result<std::uint64_t>> need_table(std::uint64_t offset);
  task<result<std::uint64_t>> add_table();
  /// The prefix of `range` whose L2 entries share a slice with its first.
  byte_range within_slice(byte_range range) const noexcept;
  entry_run entries_of(std::uint64_t table, byte_range range) const noexcept;

  /// Clusters from range.offset on, at most what `range` touches, that have no data of their own.
  task<result<std::uint64_t>> count_without_data(std::uint64_t table, byte_range range);
  result<allocation> reserve(byte_range range, std::uint64_t cluster_count);
  task<result<void>> cover(byte_range host);
  task<result<void>> make_room();
  task<result<void>> zero_entries(entry_run run, bool only_data);
  task<result<void>> clear_entries(std::uint64_t table, std::uint64_t first, std::uint64_t end);
  task<result<void>> clear_behind_end();

  std::unique_ptr<storage> file_;
  geometry shape_;
  std::uint64_t image_bytes_;
  bool writable_;
  header_store header_;
  occupancy space_;
  free_space free_;
  qcow2::slice_cache slices_;
  table_writer writer_;
  qcow2::async_lock adding_table_;
};

}  // namespace weir::qed
