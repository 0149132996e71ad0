// Byte ranges with checked arithmetic. Offsets that come from an image, the wire or XML are hostile: build a
// byte_range from them only after `fits`.
#pragma once

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstdint>
#include <limits>
#include <optional>

namespace weir {

inline constexpr std::uint64_t KiB = 1024;
inline constexpr std::uint64_t MiB = 1024 * KiB;
inline constexpr std::uint64_t GiB = 1024 * MiB;
inline constexpr std::uint64_t TiB = 1024 * GiB;

/// True if [offset, offset + length) lies inside [0, size); never overflows.
constexpr bool fits(std::uint64_t offset, std::uint64_t length, std::uint64_t size) noexcept {
  return offset <= size && length <= size - offset;
}

/// Half-open range of bytes. Precondition of every member: offset + length does not overflow.
struct byte_range {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;

  constexpr std::uint64_t end() const noexcept { return offset + length; }
  constexpr bool empty() const noexcept { return length == 0; }
  constexpr bool contains(std::uint64_t position) const noexcept {
    return position >= offset && position - offset < length;
  }
  constexpr bool contains(byte_range other) const noexcept {
    return other.offset >= offset && other.end() <= end();
  }
  constexpr bool overlaps(byte_range other) const noexcept {
    return offset < other.end() && other.offset < end();
  }
  friend constexpr bool operator==(byte_range, byte_range) = default;
};

/// Range from its two ends. Precondition: first <= last.
constexpr byte_range range_between(std::uint64_t first, std::uint64_t last) noexcept {
  assert(first <= last);
  return {first, last - first};
}

/// The common part; empty (at the larger offset) when there is none.
constexpr byte_range intersection(byte_range a, byte_range b) noexcept {
  const std::uint64_t first = std::max(a.offset, b.offset);
  return {first, std::max(first, std::min(a.end(), b.end())) - first};
}

/// Precondition of the alignment functions: `alignment` is a power of two.
constexpr bool is_aligned(std::uint64_t value, std::uint64_t alignment) noexcept {
  return (value & (alignment - 1)) == 0;
}
constexpr std::uint64_t align_down(std::uint64_t value, std::uint64_t alignment) noexcept {
  return value & ~(alignment - 1);
}
/// Precondition: the result fits 64 bits; use checked_align_up for values that are not trusted.
constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) noexcept {
  return align_down(value + (alignment - 1), alignment);
}
constexpr std::optional<std::uint64_t> checked_align_up(std::uint64_t value,
                                                        std::uint64_t alignment) noexcept {
  if (value > std::numeric_limits<std::uint64_t>::max() - (alignment - 1)) return std::nullopt;
  return align_up(value, alignment);
}

/// Smallest aligned range that holds `range`. Precondition: its end rounded up fits 64 bits.
constexpr byte_range align_outward(byte_range range, std::uint64_t alignment) noexcept {
  return range_between(align_down(range.offset, alignment), align_up(range.end(), alignment));
}
/// Largest aligned range inside `range`; empty when there is none.
constexpr byte_range align_inward(byte_range range, std::uint64_t alignment) noexcept {
  const std::uint64_t first = align_up(range.offset, alignment);
  return {first, std::max(first, align_down(range.end(), alignment)) - first};
}

constexpr std::optional<std::uint64_t> checked_add(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t sum = 0;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}
constexpr std::optional<std::uint64_t> checked_multiply(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t product = 0;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

}  // namespace weir
