// The persistent bitmaps of one open image: reading bits, marking them in use, writing them back.
//
// How a store stays whole over a power loss: bits and tables of what changed, and a new directory of all, are written
// to space of their own and made durable; one change of the header (header_bitmaps.hpp) switches to the new
// directory; then what only the old one named is free. Before the switch the bitmaps that recorded are marked as in
// use, after it they are exact.
//
// Marks are 4-byte writes into the directory as it stands. What the directory vouches for must be marked before
// content changes even if it is gone from memory already: a crash would bring it back.
#pragma once

#include "engine/block/bitmap_store.hpp"
#include "formats/qcow2/bitmap_directory.hpp"
#include "formats/qcow2/image_tables.hpp"
#include "formats/qcow2/writer.hpp"

#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace weir::qcow2 {

class bitmap_keeper final : public bitmap_store {
 public:
  /// `change_side` is null on a read-only image.
  bitmap_keeper(image_tables& tables, writer* change_side) : tables_(tables), writer_(change_side) {}

  /// Reads the directory, if the header vouches for it. To be called once, by who opens the image. A damaged
  /// directory counts as none: is_damaged().
  task<result<void>> load();
  bool is_damaged() const noexcept { return damaged_; }

 private:
  const std::string& location() const noexcept override { return tables_.file.location(); }
  std::uint64_t disk_size() const noexcept override { return tables_.head.virtual_size; }
  std::string do_refuse(std::string_view name, std::uint64_t granularity) const override;
  std::string do_refuse_length(std::uint64_t granularity, std::uint64_t size) const override;
  task<outcome<dirty_bitmap>> do_load(const kept_bitmap& wanted) override;
  task<result<void>> do_mark(std::span<kept_bitmap> bitmaps, bool all) override;
  task<outcome<void>> do_store(std::span<const kept_bitmap> bitmaps) override;

  bitmap_limits limits() const noexcept {
    return {tables_.shape, tables_.head.virtual_size, tables_.file.size()};
  }
  void adopt_entries(std::vector<bitmap_entry> entries);
  const bitmap_entry* stored(std::string_view name) const noexcept;
  task<result<std::vector<std::uint64_t>>> read_table(const bitmap_entry& entry);
  task<result<void>> load_part(dirty_bitmap& bits, std::uint64_t index, bitmap_table_entry from);
  task<result<void>> store_held(std::span<const kept_bitmap> bitmaps);
  task<result<bitmap_entry>> place_bits(const kept_bitmap& bitmap, std::vector<std::uint64_t>& fresh);
  task<result<std::uint64_t>> place_cluster(std::span<const std::byte> bits,
                                            std::vector<std::uint64_t>& fresh);
  task<result<byte_range>> place_table(std::span<const std::byte> bytes, std::vector<std::uint64_t>& fresh);
  task<result<void>> write_entries(const std::vector<bitmap_entry>& entries,
                                   std::vector<std::uint64_t>& fresh);
  task<result<void>> free_old(std::vector<bitmap_entry> old_entries, byte_range old_directory);

  image_tables& tables_;
  writer* writer_;
  std::vector<bitmap_entry> entries_;  // as on the storage
  std::map<std::string, std::size_t, std::less<>> by_name_;
  byte_range directory_;
  bool damaged_ = false;
};

}  // namespace weir::qcow2
