// An open qcow2 image, version 2 or 3: the image interface over tables, mapper and writer.
//
// Reading needs tables (header, L1 table in memory, L2 slices cached) and the mapper, which never does I/O: a
// lookup that lacks a slice loads it and asks again. Writing adds the writer with its counts, allocator and
// flush passes; a read-only image has none, and never looks at refcounts. With an external data file extents
// lie in storage 1, each at its guest offset, and storage 0 has metadata only.
//
// Left out on purpose: lazy refcounts (counts are always written in order, so the dirty bit is never set, only
// repaired).
#pragma once

#include "engine/block/image.hpp"
#include "formats/qcow2/bitmap_keeper.hpp"
#include "formats/qcow2/image_tables.hpp"
#include "formats/qcow2/mapper.hpp"
#include "formats/qcow2/snapshot_keeper.hpp"
#include "formats/qcow2/writer.hpp"

#include <memory>

namespace weir::qcow2 {

class qcow2_image final : public image {
 public:
  /// Takes the storage over. open_image() fills the tables before anyone else sees the image.
  qcow2_image(executor context, std::unique_ptr<storage> from, const header& parsed, bool writable,
              std::size_t cache_bytes);

  std::string_view format() const noexcept override { return "qcow2"; }
  std::uint64_t virtual_size() const noexcept override { return tables_.head.virtual_size; }
  std::uint64_t grain() const noexcept override { return tables_.shape.grain_size(); }
  bool writable() const noexcept override { return writer_ != nullptr; }
  bool zeroes_fast() const noexcept override;
  const std::optional<backing_reference>& backing() const noexcept override { return tables_.head.backing; }
  std::vector<image_fact> facts() const override;
  snapshot_store* snapshots() noexcept override { return &snapshots_; }
  bitmap_store* bitmaps() noexcept override { return tables_.shape.version >= 3 ? &bitmaps_ : nullptr; }
  std::optional<unit_encoding> encoding() const noexcept override;
  storage& storage_at(std::uint8_t index) noexcept override {
    return index == 0 || !data_file_ ? *storage_ : *data_file_;
  }

  /// Before the first request, for images with external data.
  void set_data_file(std::unique_ptr<storage> data_file) noexcept {
    data_file_ = std::move(data_file);
    tables_.data_file = data_file_.get();
  }
  image_tables& tables() noexcept { return tables_; }
  snapshot_keeper& snapshot_side() noexcept { return snapshots_; }
  bitmap_keeper& bitmap_side() noexcept { return bitmaps_; }
  /// Null on a read-only image.
  qcow2::writer* change_side() noexcept { return writer_.get(); }

 private:
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
  task<error_code> judge(error_code code);

  std::unique_ptr<storage> storage_;
  std::unique_ptr<storage> data_file_;
  image_tables tables_;
  mapper mapper_;
  std::unique_ptr<qcow2::writer> writer_;
  bitmap_keeper bitmaps_;
  snapshot_keeper snapshots_;
};

}  // namespace weir::qcow2
