#include "xml/old_spellings.hpp"

#include "xml/elements.hpp"
#include "xml/source_xml.hpp"

#include <string>

namespace weir::xml {
namespace {

using std::string;

string type_of(pugi::xml_node container, pugi::xml_node source, problem_log& log) {
  for (const pugi::xml_node node : {container, source}) {
    const string type = node.attribute("type").value();
    if (type.empty()) continue;
    if (!is_source_type(type))
      log.add(node, string("<") + node.name() + " type='" + type + "'>: unknown type");
    return type;
  }
  if (source.attribute("file")) return "file";
  if (source.attribute("dev")) return "block";
  if (source.attribute("dir")) return "dir";
  if (source.attribute("protocol")) return "network";
  return "file";
}

/// The format from <driver type=> beside the source or from the source's own attribute; they must agree.
string format_of(pugi::xml_node driver, pugi::xml_node source, problem_log& log) {
  const string beside = driver.attribute("type").value();
  const string own = source.attribute("format").value();
  if (!beside.empty() && !own.empty() && beside != own) log.add(source, "two formats that disagree");
  string format = beside.empty() ? own : beside;
  if (format == "aio") format = "raw";
  if (!format.empty() && !is_format(format)) log.add(source, "unknown format '" + format + "'");
  return format;
}

void add_layer(pugi::xml_node container, pugi::xml_node driver, pugi::xml_node source, read_chain& chain,
               problem_log& log) {
  if (chain.layers.size() >= max_described_layers) return log.add(container, "too many layers");
  layer_model layer;
  read_source(type_of(container, source, log), source, layer, log);
  layer.format = format_of(driver, source, log);
  if (names_nothing(layer.source)) log.add(source, string("<") + source.name() + "> names nothing");
  chain.layers.push_back(std::move(layer));
  chain.nodes.push_back({.container = container, .source = source == container ? pugi::xml_node() : source});
}

/// One <backingFile>. True if another may be nested in it.
bool read_backing_file(pugi::xml_node element, read_chain& chain, problem_log& log) {
  const pugi::xml_node driver = only_child(element, "driver", log);
  const pugi::xml_node first = element.child("source");
  if (!first) {
    chain.terminated = true;
    if (has_elements(element)) log.add(element, "<backingFile> without a <source>");
    return false;
  }
  const bool several = !first.next_sibling("source").empty();
  for (const pugi::xml_node source : element.children("source"))
    add_layer(element, driver, source, chain, log);
  chain.terminated = several;
  if (several && driver) log.add(driver, "one <driver> for several <source> elements");
  if (several && element.child("backingFile")) log.add(element, "<backingFile> inside a list of sources");
  return !several;
}

void read_backing_files(pugi::xml_node head, read_chain& chain, problem_log& log) {
  pugi::xml_node element = only_child(head, "backingFile", log);
  while (element && !log.first() && read_backing_file(element, chain, log)) {
    element = only_child(element, "backingFile", log);
  }
}

void read_backings(pugi::xml_node head, read_chain& chain, problem_log& log) {
  for (const pugi::xml_node element : head.children("backing")) {
    add_layer(element, pugi::xml_node(), element, chain, log);
    chain.terminated = true;
  }
}

}  // namespace

bool has_old_chain(pugi::xml_node element) {
  return element.child("backingFile") || element.child("backing");
}

void read_old_chain(pugi::xml_node head, read_chain& chain, problem_log& log) {
  read_chain nested = chain;
  read_backing_files(head, nested, log);
  if (!head.child("backing")) {
    chain = std::move(nested);
    return;
  }
  read_backings(head, chain, log);
  if (head.child("backingFile") && nested.layers != chain.layers) {
    log.add(head.child("backing"), "<backingFile> and <backing> disagree");
  }
}

bool is_old_mirror(pugi::xml_node mirror) {
  return has_old_chain(mirror) || mirror.child("driver") || mirror.child("source").attribute("format") ||
         (!mirror.attribute("type") && mirror.child("source"));
}

void read_old_mirror_head(pugi::xml_node mirror, read_chain& chain, problem_log& log) {
  const pugi::xml_node source = only_child(mirror, "source", log);
  if (!source) return log.add(mirror, "<mirror> without a <source>");
  add_layer(mirror, only_child(mirror, "driver", log), source, chain, log);
}

}  // namespace weir::xml
