// <source> ↔ layer_source: one grammar wherever a source stands. Which attributes count is told by the `type` of the
// element around it.
#pragma once

#include "engine/block/model.hpp"
#include "xml/problem_log.hpp"

#include <pugixml.hpp>

#include <string>
#include <string_view>

namespace weir::xml {

bool is_source_type(std::string_view type) noexcept;
/// The image formats libvirt knows by name.
bool is_format(std::string_view format) noexcept;

/// True if `source` has no location at all (a drive without medium).
bool names_nothing(const layer_source& source) noexcept;

/// Fills layer.source, slice and data_store from `source`. A feature that must not be ignored when the layer is
/// opened goes to layer_source::unsupported.
void read_source(std::string_view type, pugi::xml_node source, layer_model& layer, problem_log& log);
/// The location alone: what `element`'s attributes and hosts say, for spellings that have no <source>.
layer_source read_location(std::string_view type, pugi::xml_node element, problem_log& log);

/// Writes attributes and children of an empty <source>.
void write_source(pugi::xml_node source, const layer_model& layer);

}  // namespace weir::xml
