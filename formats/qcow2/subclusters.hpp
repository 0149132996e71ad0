// What allocation, publishing, zero and discard make of one L2 entry. Pure; for entries of either width: one
// without subclusters is treated as a cluster with a single part, always addressed as a whole.
#pragma once

#include "formats/qcow2/l2_entry.hpp"

#include <cstdint>

namespace weir::qcow2 {

/// The subclusters of guest cluster `cluster` that `range` touches, as a mask. Precondition: they meet.
std::uint32_t touched_mask(byte_range range, std::uint64_t cluster, const geometry& shape) noexcept;

/// The same, where a range that reaches `disk_size` has all that is left of the last cluster.
std::uint32_t held_mask(byte_range range, std::uint64_t cluster, const geometry& shape,
                        std::uint64_t disk_size) noexcept;

/// The entry once the subclusters `mask` lie in the host cluster at `host_offset`. Precondition: where the old
/// entry names another host cluster, `mask` covers all that it allocates.
raw_l2_entry published_entry(const raw_l2_entry& old, std::uint32_t mask, std::uint64_t host_offset,
                             const geometry& shape) noexcept;

enum class entry_change : std::uint8_t { zero_and_free, zero_and_keep, discard };

/// The entry once `what` was done to the subclusters `mask`. `in_use`: allocations under way rely on the host
/// cluster, so it stays. Precondition: the entry is sound, and not compressed unless `mask` is the whole.
raw_l2_entry changed_entry(const raw_l2_entry& old, std::uint32_t mask, entry_change what, bool in_use,
                           const geometry& shape) noexcept;

}  // namespace weir::qcow2
