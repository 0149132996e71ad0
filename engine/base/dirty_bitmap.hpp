// A dirty bitmap: one bit per granule of a disk.
#pragma once

#include "engine/base/range.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace weir {

/// Bits start clear. All ranges are clipped to the size given at construction.
class dirty_bitmap {
 public:
  /// Precondition: granularity is a power of two.
  dirty_bitmap(std::uint64_t size, std::uint64_t granularity);

  std::uint64_t granularity() const noexcept { return granularity_; }
  std::uint64_t size() const noexcept { return size_; }

  /// Sets every granule that `range` touches.
  void set(byte_range range) noexcept;
  /// Clears every granule that lies wholly inside `range` (the last granule of the disk counts as whole).
  void clear(byte_range range) noexcept;
  bool is_set(std::uint64_t offset) const noexcept;

  /// First run of set granules at or after `from`, at most `longest` bytes (rounded up to a granule).
  std::optional<byte_range> next_set(std::uint64_t from, std::uint64_t longest) const noexcept;

  /// The disk has another size: granules that it gains are clear, those it loses are gone.
  void resize(std::uint64_t size);

  std::uint64_t dirty_bytes() const noexcept { return set_count_ * granularity_; }

  // As images store bits: eight to a byte, the lowest granule first.
  // Precondition of both: first_bit is a multiple of 64 and the length of the bytes one of 8.

  std::uint64_t bit_count() const noexcept { return bit_count_; }
  /// The bits from `first_bit` on; clear past the end.
  void copy_bits(std::uint64_t first_bit, std::span<std::byte> into) const noexcept;
  /// The bits from `first_bit` on become those of `from`; what lies past the end is ignored.
  void assign_bits(std::uint64_t first_bit, std::span<const std::byte> from) noexcept;

 private:
  void assign(std::uint64_t first, std::uint64_t last, bool value) noexcept;
  std::uint64_t find(std::uint64_t from, bool value) const noexcept;

  std::uint64_t size_;
  std::uint64_t granularity_;
  std::uint64_t bit_count_;
  std::uint64_t set_count_ = 0;
  std::vector<std::uint64_t> words_;
};

}  // namespace weir
