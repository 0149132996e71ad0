// Metadata contexts: which a client may ask for, and what BLOCK_STATUS answers in each. Pure.
// Source: NBD specification, "Metadata querying"; QEMU docs/interop/nbd.rst for the qemu: contexts.
#pragma once

#include "engine/base/dirty_bitmap.hpp"
#include "engine/base/range.hpp"
#include "engine/block/disk.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weir::nbd {

/// A context of an export: the fixed ones, and from first_bitmap on the bitmaps that it shows, in order.
enum class meta_context : std::uint8_t { base_allocation, allocation_depth, first_bitmap };

/// Per export; with it every context has a bit in a meta_context_set.
inline constexpr std::size_t most_bitmaps = 30;
/// Longest name of a bitmap that fits a context's name.
inline constexpr std::size_t longest_bitmap_name = 1023;

constexpr meta_context context_of_bitmap(std::size_t index) noexcept {
  return static_cast<meta_context>(static_cast<std::size_t>(meta_context::first_bitmap) + index);
}
constexpr bool is_bitmap(meta_context context) noexcept {
  return context >= meta_context::first_bitmap;
}
/// Precondition: is_bitmap(context).
constexpr std::size_t bitmap_index_of(meta_context context) noexcept {
  return static_cast<std::size_t>(context) - static_cast<std::size_t>(meta_context::first_bitmap);
}

/// "base:allocation", "qemu:allocation-depth", "qemu:dirty-bitmap:NAME" for the names in `bitmaps`.
std::string name_of(meta_context context, std::span<const std::string> bitmaps);
/// The number that stands for it in replies; not zero, which LIST_META_CONTEXT uses.
constexpr std::uint32_t id_of(meta_context context) noexcept {
  return static_cast<std::uint32_t>(context) + 1;
}

class meta_context_set {
 public:
  constexpr void insert(meta_context context) noexcept { bits_ |= bit(context); }
  constexpr bool contains(meta_context context) const noexcept { return (bits_ & bit(context)) != 0; }
  /// Whether BLOCK_STATUS has to ask the chain.
  constexpr bool contains_allocation() const noexcept {
    return contains(meta_context::base_allocation) || contains(meta_context::allocation_depth);
  }
  constexpr bool empty() const noexcept { return bits_ == 0; }
  constexpr unsigned count() const noexcept { return static_cast<unsigned>(std::popcount(bits_)); }
  constexpr void clear() noexcept { bits_ = 0; }
  /// The context with the lowest number leaves the set. Precondition: not empty.
  constexpr meta_context take_first() noexcept {
    const auto first = static_cast<meta_context>(std::countr_zero(bits_));
    bits_ &= bits_ - 1;
    return first;
  }
  friend bool operator==(const meta_context_set&, const meta_context_set&) = default;

 private:
  static constexpr std::uint32_t bit(meta_context context) noexcept {
    return std::uint32_t{1} << static_cast<unsigned>(context);
  }
  std::uint32_t bits_ = 0;
};

/// All contexts of an export with that many bitmaps.
meta_context_set every_meta_context(std::size_t bitmap_count) noexcept;

/// Adds what `query` names to `into`: a full name, or with `wildcards` (LIST) also "base:", "qemu:" and
/// "qemu:dirty-bitmap:". Unknown names add nothing.
void select_meta_contexts(std::string_view query, bool wildcards, std::span<const std::string> bitmaps,
                          meta_context_set& into);

struct status_extent {
  std::uint64_t length = 0;
  std::uint32_t flags = 0;
  friend bool operator==(const status_extent&, const status_extent&) = default;
};

/// The answer of BLOCK_STATUS in one context: equal neighbours merged, at most `most` extents, together at
/// most the runs' length. Precondition: not a bitmap; no run is empty.
std::vector<status_extent> extents_of(meta_context context, std::span<const status_run> runs,
                                      std::size_t most);
/// The same for a bitmap: a prefix of `range`. Precondition: the range is not empty and inside the bitmap's size.
std::vector<status_extent> extents_of(const dirty_bitmap& bitmap, byte_range range, std::size_t most);

}  // namespace weir::nbd
