// A raw image: the content is the file.
//
// The guest sees the file's length rounded up to whole 512-byte sectors, as QEMU does; the tail past the
// file's end reads as zero, and writing there grows a file that can grow. Everything is data in place, so
// locating a range costs no I/O; only map_effort::status asks the storage for its holes.
#pragma once

#include "engine/block/image.hpp"

#include <memory>

namespace weir {

class raw_image final : public image {
 public:
  static constexpr std::uint64_t sector_bytes = 512;

  /// Precondition: the storage's length rounded up to sectors fits 64 bits.
  raw_image(std::unique_ptr<storage> file, bool writable);

  std::string_view format() const noexcept override { return "raw"; }
  std::uint64_t virtual_size() const noexcept override { return virtual_size_; }
  std::uint64_t grain() const noexcept override { return 1; }
  bool writable() const noexcept override { return writable_; }
  bool zeroes_fast() const noexcept override { return writable_ && file_->capabilities().fast_zero; }
  const std::optional<backing_reference>& backing() const noexcept override { return no_backing_; }
  std::vector<image_fact> facts() const override { return {}; }
  snapshot_store* snapshots() noexcept override { return nullptr; }
  bitmap_store* bitmaps() noexcept override { return nullptr; }
  std::optional<unit_encoding> encoding() const noexcept override { return std::nullopt; }
  storage& storage_at(std::uint8_t) noexcept override { return *file_; }

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

  extent locate(byte_range range) const noexcept;
  extent data_at(std::uint64_t offset, std::uint64_t length) const noexcept;

  std::unique_ptr<storage> file_;
  std::uint64_t virtual_size_;
  bool writable_;
  std::optional<backing_reference> no_backing_;
};

}  // namespace weir
