#include "xml/chain_writer.hpp"

#include "xml/elements.hpp"
#include "xml/kept_layers.hpp"

#include <array>
#include <string>
#include <string_view>

namespace weir::xml {
namespace {

using std::string;

constexpr std::string_view indent_step = "  ";

/// The blank text before `node`'s children: "\n      ", or empty where the document is not indented.
string indent_of_children(pugi::xml_node node) {
  const pugi::xml_node first = node.first_child();
  return is_blank_text(first) && string(first.value()).find('\n') != string::npos ? first.value() : string();
}

void insert_blanks(pugi::xml_node parent, pugi::xml_node before, const string& blanks) {
  pugi::xml_node text =
      before ? parent.insert_child_before(pugi::node_pcdata, before) : parent.append_child(pugi::node_pcdata);
  text.set_value(blanks.c_str());
}

/// Gives the elements inside `top` one line each, below an indentation of `outer`. Text that is not blank stays.
void indent_inside(pugi::xml_node top, const string& outer) {
  std::vector<std::pair<pugi::xml_node, string>> waiting{{top, outer}};
  while (!waiting.empty()) {
    auto [node, own] = std::move(waiting.back());
    waiting.pop_back();
    if (!has_elements(node)) continue;
    for (pugi::xml_node child = node.first_child(); child;) {
      const pugi::xml_node next = child.next_sibling();
      if (is_blank_text(child)) node.remove_child(child);
      child = next;
    }
    const string inner = own + string(indent_step);
    for (pugi::xml_node child = node.first_child(); child; child = child.next_sibling()) {
      if (child.type() == pugi::node_pcdata) continue;
      insert_blanks(node, child, inner);
      waiting.emplace_back(child, inner);
    }
    insert_blanks(node, pugi::xml_node(), own);
  }
}

/// Where a new element called `name` goes in `disk`: before the returned one, or at the end for none.
pugi::xml_node place_in_disk(pugi::xml_node disk, std::string_view name) {
  constexpr std::array<std::string_view, 9> order{
      "driver", "auth", "source", "backingStore", "backenddomain", "geometry", "blockio", "mirror", "target"};
  std::size_t rank = 0;
  while (rank < order.size() && order[rank] != name) ++rank;
  pugi::xml_node after;
  for (const pugi::xml_node child : disk.children()) {
    for (std::size_t earlier = 0; earlier < rank; ++earlier) {
      if (order[earlier] == child.name()) after = child;
    }
  }
  pugi::xml_node place = after ? after.next_sibling() : disk.first_child();
  while (place && place.type() != pugi::node_element) place = place.next_sibling();
  return place;
}

/// A new child of `disk`, on a line of its own where the document is indented.
pugi::xml_node insert_into_disk(pugi::xml_node disk, const char* name) {
  const string blanks = indent_of_children(disk);
  const pugi::xml_node place = place_in_disk(disk, name);
  pugi::xml_node element;
  if (place) {
    element = disk.insert_child_before(name, place);
    if (!blanks.empty()) insert_blanks(disk, place, blanks);
    return element;
  }
  const pugi::xml_node last = disk.last_child();
  element = is_blank_text(last) ? disk.insert_child_before(name, last) : disk.append_child(name);
  if (!blanks.empty()) insert_blanks(disk, element, blanks);
  return element;
}

void remove_children(pugi::xml_node parent, const char* name) {
  while (const pugi::xml_node child = parent.child(name)) remove_with_blanks(child);
}

/// The layers below a head, nested.
void append_chain(pugi::xml_node head, const std::vector<layer_model>& layers, bool terminated,
                  const kept_layers& kept) {
  pugi::xml_node at = head;
  for (std::size_t i = 1; i < layers.size(); ++i) at = kept.append_backing_store(at, layers[i]);
  if (terminated) at.append_child("backingStore");
}

void write_head_format(pugi::xml_node disk, const string& format) {
  pugi::xml_node driver = disk.child("driver");
  const string current = driver.attribute("type").as_string("raw");
  if (format.empty() || format == current || (format == "raw" && current == "aio")) return;
  if (!driver) {
    driver = insert_into_disk(disk, "driver");
    driver.append_attribute("name").set_value("qemu");
  }
  put_attribute(driver, "type", format);
}

/// <source> of the disk: untouched if the head stays, apart from its index.
void write_head(pugi::xml_node disk, const layer_model& head, const kept_layers& kept) {
  problem_log ignored;
  const read_disk before = read_disk_element(disk, ignored);
  const bool stays = !before.model.layers.empty() && before.model.layers[0].source == head.source &&
                     before.model.layers[0].slice == head.slice;
  if (!stays) {
    const string blanks = indent_of_children(disk);
    remove_children(disk, "source");
    const pugi::xml_node source = insert_into_disk(disk, "source");
    kept.fill_source(source, head);
    if (!blanks.empty()) indent_inside(source, blanks);
    pugi::xml_attribute type = disk.attribute("type");
    if (!type) type = disk.prepend_attribute("type");
    type.set_value(head.source.type.c_str());
  }
  put_attribute(disk.child("source"), "index", head.index ? std::to_string(*head.index) : string());
  write_head_format(disk, head.format);
}

bool strip_indexes(pugi::xml_node top) {
  bool changed = false;
  std::vector<pugi::xml_node> waiting{top};
  while (!waiting.empty()) {
    pugi::xml_node node = waiting.back();
    waiting.pop_back();
    changed |= node.remove_attribute("index");
    for (const char* name : {"source", "backingStore", "dataStore"}) {
      for (const pugi::xml_node child : node.children(name)) waiting.push_back(child);
    }
  }
  return changed;
}

}  // namespace

void write_chain(pugi::xml_node disk, const std::vector<layer_model>& layers, bool terminated) {
  const kept_layers kept(disk);
  const string blanks = indent_of_children(disk);
  write_head(disk, layers.front(), kept);
  for (const char* name : {"backingStore", "backingFile", "backing"}) remove_children(disk, name);
  if (layers.size() == 1 && !terminated) return;
  // Nested below a place holder, whose child is the real element.
  pugi::xml_document scratch;
  const pugi::xml_node holder = scratch.append_child("holder");
  append_chain(holder, layers, terminated, kept);
  pugi::xml_node element = insert_into_disk(disk, "backingStore");
  const pugi::xml_node made = holder.first_child();
  for (const pugi::xml_attribute attribute : made.attributes()) element.append_copy(attribute);
  for (const pugi::xml_node child : made.children()) element.append_copy(child);
  if (!blanks.empty()) indent_inside(element, blanks);
}

void write_mirror(pugi::xml_node disk, const std::optional<mirror_model>& mirror) {
  const kept_layers kept(disk);
  const string blanks = indent_of_children(disk);
  remove_children(disk, "mirror");
  if (!mirror || mirror->layers.empty()) return;
  const layer_model& head = mirror->layers.front();
  const string format = head.format.empty() ? "raw" : head.format;
  pugi::xml_node element = insert_into_disk(disk, "mirror");
  put_attribute(element, "type", head.source.type);
  if (mirror->job == "copy" && head.source.type == "file") {  // what readers of 2012 understand
    put_attribute(element, "file", head.source.path);
    put_attribute(element, "format", format);
  }
  put_attribute(element, "job", mirror->job);
  put_attribute(element, "ready", mirror->ready);
  put_attribute(element.append_child("format"), "type", format);
  kept.fill_source(element.append_child("source"), head);
  if (mirror->job == "copy") append_chain(element, mirror->layers, mirror->terminated, kept);
  if (!blanks.empty()) indent_inside(element, blanks);
}

bool strip_live_parts(pugi::xml_node disk) {
  bool changed = false;
  while (const pugi::xml_node mirror = disk.child("mirror")) {
    remove_with_blanks(mirror);
    changed = true;
  }
  return strip_indexes(disk) || changed;
}

}  // namespace weir::xml
