// Finding zeros in buffers (ISA-L picks the widest vector unit at run time).
#pragma once

#include "engine/base/range.hpp"

#include <cstddef>
#include <span>
#include <vector>

namespace weir {

/// True if every byte is zero; true for an empty buffer.
bool is_all_zero(std::span<const std::byte> buffer) noexcept;

/// The parts of `buffer` that hold non-zero bytes, as ranges relative to its start, ascending, not adjacent.
/// Both ends of a part are multiples of `granularity` (the last may end at the buffer's end).
/// Precondition: granularity is a power of two.
std::vector<byte_range> non_zero_runs(std::span<const std::byte> buffer, std::size_t granularity);

}  // namespace weir
