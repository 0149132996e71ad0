// Encoding the units of one step of a copy, on a worker: values in, values out.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/block/image.hpp"

#include <cstddef>
#include <span>
#include <vector>

namespace weir {

/// One unit of a step.
struct packed_unit {
  byte_range plain;                    ///< in the step's buffer, whole
  std::span<const std::byte> encoded;  ///< empty: it does not get smaller
};

/// Encodes the units that `non_zero` (ranges of `plain`, multiples of the unit) names into `room`, one behind the
/// other. Precondition: plain and room are of one length, a multiple of the unit. Blocking; any thread.
result<std::vector<packed_unit>> pack_units(const unit_encoding& form, std::span<const std::byte> plain,
                                            std::span<const byte_range> non_zero, std::span<std::byte> room);

}  // namespace weir
