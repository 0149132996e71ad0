// <disk> → disk_model, in every spelling, and which elements each layer came from.
#pragma once

#include "engine/block/model.hpp"
#include "xml/problem_log.hpp"

#include <pugixml.hpp>

#include <vector>

namespace weir::xml {

/// The elements of one layer. They stay valid as long as the document is not edited.
struct layer_nodes {
  pugi::xml_node container;  ///< backingStore, or the old spelling's element; the disk or mirror for its head
  pugi::xml_node source;     ///< absent in spellings whose container carries the attributes
};

/// A chain as read.
struct read_chain {
  std::vector<layer_model> layers;
  std::vector<layer_nodes> nodes;  ///< of each layer
  bool terminated = false;
};

struct read_disk {
  disk_model model;
  std::vector<layer_nodes> nodes;
  std::vector<layer_nodes> mirror_nodes;
};

read_disk read_disk_element(pugi::xml_node disk, problem_log& log);

/// Appends the modern layers below `head` (a disk or mirror).
void read_backing_stores(pugi::xml_node head, read_chain& chain, problem_log& log);

/// Layers a description may list (engine/block/open_chain.hpp).
inline constexpr std::size_t max_described_layers = 200;

}  // namespace weir::xml
