#include "xml/kept_layers.hpp"

#include "xml/elements.hpp"
#include "xml/source_xml.hpp"

#include <string_view>

namespace weir::xml {
namespace {

bool is_named(pugi::xml_node node, std::string_view name) {
  return name == node.name();
}

/// Copies attributes and children of `from` into the empty `to`.
void copy_content(pugi::xml_node from, pugi::xml_node to) {
  for (const pugi::xml_attribute attribute : from.attributes()) to.append_copy(attribute);
  for (const pugi::xml_node child : from.children()) to.append_copy(child);
}

/// What a whole <backingStore> holds besides the layers below it.
pugi::xml_node copy_without_chain(pugi::xml_node container, pugi::xml_node into) {
  pugi::xml_node copy = into.append_child(container.name());
  for (const pugi::xml_attribute attribute : container.attributes()) copy.append_copy(attribute);
  for (const pugi::xml_node child : container.children()) {
    if (!is_named(child, "backingStore")) copy.append_copy(child);
  }
  return copy;
}

void put_index(pugi::xml_node at, const layer_model& layer) {
  put_attribute(at, "index", layer.index ? std::to_string(*layer.index) : std::string());
}

}  // namespace

kept_layers::kept_layers(pugi::xml_node disk) {
  problem_log ignored;
  const read_disk read = read_disk_element(disk, ignored);
  keep(read.model.layers, read.nodes);
  if (read.model.mirror) keep(read.model.mirror->layers, read.mirror_nodes);
}

void kept_layers::keep(const std::vector<layer_model>& models, const std::vector<layer_nodes>& nodes) {
  for (std::size_t i = 0; i < models.size(); ++i) {
    kept layer{.model = models[i], .container = {}, .source = {}};
    if (is_named(nodes[i].container, "backingStore")) {
      layer.container = copy_without_chain(nodes[i].container, copies_.root());
      layer.source = layer.container.child("source");
    } else if (nodes[i].source) {
      layer.source = copies_.append_copy(nodes[i].source);
      layer.source.remove_attribute("format");  // where the old spellings put it
    }
    layers_.push_back(std::move(layer));
  }
}

const kept_layers::kept* kept_layers::find(const layer_model& layer) const {
  for (const kept& candidate : layers_) {
    if (candidate.model.source == layer.source && candidate.model.slice == layer.slice) return &candidate;
  }
  return nullptr;
}

void kept_layers::fill_source(pugi::xml_node source, const layer_model& layer) const {
  const kept* known = find(layer);
  if (known != nullptr && known->source) {
    copy_content(known->source, source);
  } else {
    write_source(source, layer);
  }
  put_index(source, layer);
}

pugi::xml_node kept_layers::append_backing_store(pugi::xml_node parent, const layer_model& layer) const {
  pugi::xml_node element = parent.append_child("backingStore");
  const kept* known = find(layer);
  if (known != nullptr && known->container) copy_content(known->container, element);
  pugi::xml_attribute type = element.attribute("type");
  if (!type) type = element.prepend_attribute("type");
  type.set_value(layer.source.type.c_str());
  put_index(element, layer);
  pugi::xml_node format = element.child("format");
  if (!format) format = element.prepend_child("format");
  put_attribute(format, "type", layer.format);
  if (!element.child("source")) {
    const pugi::xml_node source = element.insert_child_after("source", format);
    fill_source(source, layer);
  }
  element.child("source").remove_attribute("index");  // of a layer that was a head
  return element;
}

}  // namespace weir::xml
