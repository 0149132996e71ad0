// Laying out cluster 0: the header of a new image, and a change of the recorded backing image that power loss
// cannot tear. Pure.
//
// How a change of the backing image stays whole. The one thing assumed of the device is that a 512-byte
// sector is written entirely or not at all. All fixed fields lie in sector 0, so the new name is first
// written to a place nothing refers to, and the write of sector 0 then switches name and format at once. That
// works if what the old header uses outside sector 0 stays as it is, so the format extension is placed with
// care:
//   in place    the new format takes the bytes of the old one, or of a filler, an extension nobody knows that
//               was left when a format was removed (a removed format becomes such a filler);
//   in front    where all old extensions end in sector 0, they are moved to make room, and what no longer
//               fits sector 0 goes where nothing was;
//   at the end  otherwise the format is appended, which is a sector switch of its own, after the name's. Until
//               then the new name stands without a format: what an image that recorded none already said.
// The last step clears what nothing refers to any more.
#pragma once

#include "engine/base/error.hpp"
#include "formats/qcow2/header.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace weir::qcow2 {

/// An extension of this type means nothing: it keeps a place for a backing format.
inline constexpr std::uint32_t filler_extension = 0x7765'6972;

/// Bytes to write at an offset of cluster 0. Between two steps everything is made durable.
struct header_step {
  std::uint64_t offset = 0;
  std::vector<std::byte> bytes;
};

/// Cluster 0 of a new image: `wanted`'s fields and backing; its extensions are chosen here. header_length,
/// backing_offset and backing_length are ignored. Errors: name_too_long.
result<std::vector<std::byte>> lay_out_header(const header& wanted);

/// Steps that change the backing image recorded in `cluster`, which parses as `current`. Errors: name_too_long
/// if there is no place for it; out_of_range for a name or format the header cannot express.
result<std::vector<header_step>> plan_backing_change(std::span<const std::byte> cluster,
                                                     const header& current,
                                                     const std::optional<backing_reference>& wanted);

}  // namespace weir::qcow2
