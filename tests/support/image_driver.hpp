// Drives one image as the engine does, without the engine: map, allocate, fill head and tail, write, publish.
// Format tests use it to read and write guest bytes of a single layer. What the layer leaves unallocated is
// read from a byte array that plays the backing image (zero past its end).
//
// One operation at a time per grain, as image.hpp demands of its caller; different grains may overlap in
// time.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/block/image.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace weir::test {

class image_driver {
 public:
  /// `target` and the bytes of `backing` must outlive the driver.
  explicit image_driver(image& target, std::span<const std::byte> backing = {})
      : image_(target), backing_(backing) {}

  image& target() noexcept { return image_; }

  /// Guest bytes at `offset`. Asks try_map first, as the engine's fast path does.
  task<result<void>> read(std::uint64_t offset, std::span<std::byte> buffer);
  task<result<void>> write(std::uint64_t offset, std::span<const std::byte> data);

  /// Any alignment: whole grains by image::zero, the rest (and everything, where the image cannot) by
  /// writing.
  task<result<void>> zero(byte_range range, zero_mode mode = zero_mode::may_punch);

  /// Discards the whole grains inside `range`, leaving the rest alone. Returns what was handed on.
  task<result<byte_range>> discard(byte_range range);

  /// Writes one unit encoded. False, with nothing done, where it does not get smaller or is allocated already.
  /// `publish` false: it is reserved, written and given back.
  task<result<bool>> write_encoded(byte_range unit, std::span<const std::byte> data, bool publish);

  task<result<void>> flush() { return image_.flush(); }

  /// The largest part of `range` that image::zero and image::discard take.
  byte_range whole_grains(byte_range range) const noexcept;

 private:
  task<result<mapping>> locate(byte_range range);
  task<result<void>> read_extent(const extent& from, std::uint64_t offset, std::span<std::byte> part);
  void read_backing(std::uint64_t offset, std::span<std::byte> part) const;

  task<result<void>> read_unit(const extent& from, std::uint64_t offset, std::span<std::byte> part);

  /// Writes a prefix of `data` to newly allocated grains; returns its length.
  task<result<std::uint64_t>> write_new(std::uint64_t offset, std::span<const std::byte> data);
  task<result<void>> fill(const allocation& reserved, std::uint64_t offset, std::span<const std::byte> data);

  /// Where the host reads as zero, zeros are left out, as the engine does.
  task<result<void>> write_host(const allocation& reserved, std::span<const std::byte> all);
  task<result<void>> write_zeros(byte_range range);

  image& image_;
  std::span<const std::byte> backing_;
};

}  // namespace weir::test
