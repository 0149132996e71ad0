// Metadata contexts: which a client may ask for, and what BLOCK_STATUS answers in each. Pure.
// Source: NBD specification, "Metadata querying"; QEMU docs/interop/nbd.rst for qemu:allocation-depth.
#pragma once

#include "engine/base/range.hpp"
#include "engine/block/disk.hpp"

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace weir::nbd {

enum class meta_context : std::uint8_t { base_allocation, allocation_depth };

inline constexpr std::array every_meta_context{meta_context::base_allocation, meta_context::allocation_depth};

/// "base:allocation", "qemu:allocation-depth".
std::string_view name_of(meta_context context) noexcept;
/// The number that stands for it in replies; not zero, which LIST_META_CONTEXT uses.
constexpr std::uint32_t id_of(meta_context context) noexcept {
  return static_cast<std::uint32_t>(context) + 1;
}

class meta_context_set {
 public:
  constexpr void insert(meta_context context) noexcept { bits_ |= bit(context); }
  constexpr void erase(meta_context context) noexcept { bits_ &= ~bit(context); }
  constexpr bool contains(meta_context context) const noexcept { return (bits_ & bit(context)) != 0; }
  constexpr bool empty() const noexcept { return bits_ == 0; }
  constexpr void clear() noexcept { bits_ = 0; }

 private:
  static constexpr unsigned bit(meta_context context) noexcept {
    return 1U << static_cast<unsigned>(context);
  }
  unsigned bits_ = 0;
};

/// Adds what `query` names to `into`: a full name, or with `wildcards` (LIST) also "base:" and "qemu:".
/// Unknown names add nothing.
void select_meta_contexts(std::string_view query, bool wildcards, meta_context_set& into);

struct status_extent {
  std::uint32_t length = 0;
  std::uint32_t flags = 0;
  friend bool operator==(const status_extent&, const status_extent&) = default;
};

/// The answer of BLOCK_STATUS in one context: equal neighbours merged, at most `most` extents, together at
/// most the runs' length. Precondition: the runs' lengths sum to less than 4 GiB and none is zero.
std::vector<status_extent> extents_of(meta_context context, std::span<const status_run> runs,
                                      std::size_t most);

}  // namespace weir::nbd
