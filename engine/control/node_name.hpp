// Names of layers as QMP nodes: the active layer is called as its disk, the others "DISK[INDEX]" as in libvirt.
#pragma once

#include "engine/block/disk.hpp"

#include <cstddef>
#include <string>

namespace weir {

/// chain::find_layer understands it. Precondition: depth < chain().depth().
std::string node_name(const disk& of, std::size_t depth);

}  // namespace weir
