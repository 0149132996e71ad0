// Edits of <disk> elements: a new chain, a new mirror. Only the nodes that change are touched; a layer that stays keeps
// its <source> subtree and whatever unknown stood beside it. Child order is libvirt's.
#pragma once

#include "engine/block/model.hpp"

#include <pugixml.hpp>

#include <optional>
#include <vector>

namespace weir::xml {

/// Precondition: `disk` was read without a problem; at least one layer; every format is known.
void write_chain(pugi::xml_node disk, const std::vector<layer_model>& layers, bool terminated);
void write_mirror(pugi::xml_node disk, const std::optional<mirror_model>& mirror);
/// Removes <mirror> and the indexes, which configurations do not carry. True if there was something to remove.
bool strip_live_parts(pugi::xml_node disk);

}  // namespace weir::xml
