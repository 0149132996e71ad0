// Changing what the header says of bitmaps: the extension and its autoclear bit. Pure.
//
// All fixed fields lie in sector 0, and a sector is written whole or not at all. So a change is whole if it stays in
// one sector. Where the extension has a place already, or all extensions fit sector 0 with it (feature names make
// room: they are a courtesy), it does. Otherwise the bit is cleared first and set again at the end, and the sectors
// between go from the last to the first, so that the list of extensions is sound at every moment; a power loss then
// costs the bitmaps.
#pragma once

#include "engine/base/error.hpp"
#include "formats/qcow2/bitmap_directory.hpp"
#include "formats/qcow2/header.hpp"
#include "formats/qcow2/header_layout.hpp"

#include <cstddef>
#include <optional>
#include <span>
#include <vector>

namespace weir::qcow2 {

/// Steps that make `cluster`, which parses as `current`, name these bitmaps, or none. Errors: name_too_long if there
/// is no room for the extension. Precondition: version 3.
result<std::vector<header_step>> plan_bitmaps_change(std::span<const std::byte> cluster,
                                                     const header& current,
                                                     const std::optional<bitmaps_place>& wanted);

}  // namespace weir::qcow2
