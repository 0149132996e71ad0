// Copies of the layers a <disk> describes, taken before it is edited, so that a layer that stays keeps its subtree.
#pragma once

#include "engine/block/model.hpp"
#include "xml/disk_reader.hpp"

#include <pugixml.hpp>

#include <vector>

namespace weir::xml {

class kept_layers {
 public:
  explicit kept_layers(pugi::xml_node disk);

  /// Appends `layer` as <backingStore> to `parent` and returns it, without the layers below.
  pugi::xml_node append_backing_store(pugi::xml_node parent, const layer_model& layer) const;
  /// Fills the new, empty <source> of a head: the subtree it had, or one made from the model.
  void fill_source(pugi::xml_node source, const layer_model& layer) const;

 private:
  struct kept {
    layer_model model;
    pugi::xml_node container;  ///< a whole <backingStore> without the layers below, or empty
    pugi::xml_node source;     ///< may be empty
  };

  void keep(const std::vector<layer_model>& models, const std::vector<layer_nodes>& nodes);
  const kept* find(const layer_model& layer) const;

  pugi::xml_document copies_;
  std::vector<kept> layers_;
};

}  // namespace weir::xml
