#include "xml/disk_reader.hpp"

#include "xml/elements.hpp"
#include "xml/old_spellings.hpp"
#include "xml/source_xml.hpp"

#include <string>

namespace weir::xml {
namespace {

using std::string;

/// One typed <backingStore>.
void read_backing_store(pugi::xml_node element, read_chain& chain, problem_log& log) {
  layer_model layer;
  const string type = element.attribute("type").value();
  if (!is_source_type(type)) return log.add(element, "<backingStore type='" + type + "'>: unknown type");
  const pugi::xml_node format = only_child(element, "format", log);
  const pugi::xml_node source = only_child(element, "source", log);
  layer.format = format.attribute("type").value();
  if (layer.format.empty()) return log.add(element, "<backingStore> without a <format type=>");
  if (!is_format(layer.format)) return log.add(format, "unknown format '" + layer.format + "'");
  if (!source) return log.add(element, "<backingStore> without a <source>");
  read_source(type, source, layer, log);
  if (names_nothing(layer.source)) return log.add(source, "<source> names nothing");
  if (const auto index = number_attribute(element, "index", log); index && *index <= 1'000'000'000) {
    layer.index = static_cast<unsigned>(*index);
  }
  chain.layers.push_back(std::move(layer));
  chain.nodes.push_back({.container = element, .source = source});
}

/// The chain below `head`, in whichever spelling it has.
void read_below(pugi::xml_node head, read_chain& chain, problem_log& log) {
  if (has_old_chain(head)) {
    read_old_chain(head, chain, log);
  } else {
    read_backing_stores(head, chain, log);
  }
}

string head_format(pugi::xml_node driver, problem_log& log) {
  string format = driver.attribute("type").as_string("raw");
  if (format == "aio") format = "raw";
  if (!is_format(format)) log.add(driver, "unknown format '" + format + "'");
  return format;
}

void read_driver(pugi::xml_node driver, disk_model& model, problem_log& log) {
  check_value(driver, "cache", {"default", "none", "writeback", "writethrough", "directsync", "unsafe"}, log);
  check_value(driver, "io", {"threads", "native", "io_uring"}, log);
  check_value(driver, "discard", {"ignore", "unmap"}, log);
  check_value(driver, "detect_zeroes", {"off", "on", "unmap"}, log);
  check_value(driver, "copy_on_read", {"on", "off"}, log);
  check_value(driver, "error_policy", {"stop", "report", "ignore", "enospace"}, log);
  check_value(driver, "rerror_policy", {"stop", "report", "ignore"}, log);
  model.cache = driver.attribute("cache").value();
  if (model.cache == "default") model.cache.clear();
  model.io = driver.attribute("io").value();
  model.discard_unmap = string(driver.attribute("discard").value()) == "unmap";
  model.detect_zeroes = driver.attribute("detect_zeroes").as_string("off");
  model.copy_on_read = string(driver.attribute("copy_on_read").value()) == "on";
  if (model.io == "native" && model.cache != "none" && model.cache != "directsync") {
    log.add(driver, "io='native' needs cache none or directsync");
  }
}

/// Features of the disk, not of its <source>, that opening must not ignore.
void read_old_places(pugi::xml_node disk, pugi::xml_node source, layer_model& head, problem_log& log) {
  for (const char* name : {"encryption", "auth"}) {
    const pugi::xml_node old_place = only_child(disk, name, log);
    if (!old_place) continue;
    if (source.child(name)) log.add(old_place, string("<") + name + "> both in the disk and in its source");
    head.source.unsupported = string("<") + name + ">";
  }
}

/// The active layer. False if the drive holds no medium.
bool read_head(pugi::xml_node disk, disk_model& model, read_chain& chain, problem_log& log) {
  const string type = disk.attribute("type").as_string("file");
  if (!is_source_type(type)) {
    log.add(disk, "<disk type='" + type + "'>: unknown type");
    return false;
  }
  const pugi::xml_node source = only_child(disk, "source", log);
  layer_model head;
  head.format = head_format(only_child(disk, "driver", log), log);
  if (source) read_source(type, source, head, log);
  model.startup_policy = source.attribute("startupPolicy").value();
  check_value(source, "startupPolicy", {"mandatory", "requisite", "optional"}, log);
  read_old_places(disk, source, head, log);
  if (!source || names_nothing(head.source)) {
    const bool removable = model.device == "cdrom" || model.device == "floppy";
    if (!removable) log.add(disk, "no <source>");
    return false;
  }
  chain.layers.push_back(std::move(head));
  chain.nodes.push_back({.container = disk, .source = source});
  return true;
}

/// <mirror file= [format=]/>, as libvirt wrote it in 2012.
void read_attribute_mirror(pugi::xml_node mirror, read_chain& chain, problem_log& log) {
  layer_model head;
  head.source.path = mirror.attribute("file").value();
  head.format = mirror.attribute("format").as_string("raw");
  if (head.source.path.empty()) log.add(mirror, "<mirror> names nothing");
  if (!is_format(head.format)) log.add(mirror, "unknown format '" + head.format + "'");
  if (string(mirror.attribute("job").as_string("copy")) != "copy") {
    log.add(mirror, "<mirror file=> without a type is a copy");
  }
  chain.layers.push_back(std::move(head));
  chain.nodes.push_back({.container = mirror, .source = pugi::xml_node()});
}

void read_modern_mirror(pugi::xml_node mirror, read_chain& chain, problem_log& log) {
  layer_model head;
  const string type = mirror.attribute("type").value();
  if (!is_source_type(type)) return log.add(mirror, "<mirror type='" + type + "'>: unknown type");
  const pugi::xml_node source = only_child(mirror, "source", log);
  if (!source) return log.add(mirror, "<mirror> without a <source>");
  read_source(type, source, head, log);
  if (names_nothing(head.source)) return log.add(source, "<source> names nothing");
  head.format = only_child(mirror, "format", log).attribute("type").as_string("raw");
  if (!is_format(head.format)) log.add(mirror, "unknown format '" + head.format + "'");
  chain.layers.push_back(std::move(head));
  chain.nodes.push_back({.container = mirror, .source = source});
}

void read_mirror(pugi::xml_node mirror, read_disk& disk, problem_log& log) {
  read_chain chain;
  if (is_old_mirror(mirror)) {
    read_old_mirror_head(mirror, chain, log);
    if (!chain.layers.empty() && chain.layers[0].format.empty()) chain.layers[0].format = "raw";
  } else if (mirror.attribute("type")) {
    read_modern_mirror(mirror, chain, log);
  } else {
    read_attribute_mirror(mirror, chain, log);
  }
  check_value(mirror, "job", {"copy", "active-commit"}, log);
  check_value(mirror, "ready", {"yes", "abort", "pivot"}, log);
  if (!chain.layers.empty()) read_below(mirror, chain, log);
  disk.model.mirror = mirror_model{.job = mirror.attribute("job").as_string("copy"),
                                   .ready = mirror.attribute("ready").value(),
                                   .layers = std::move(chain.layers),
                                   .terminated = chain.terminated};
  disk.mirror_nodes = std::move(chain.nodes);
}

/// One disk is described in one family of spellings.
void check_families(pugi::xml_node disk, pugi::xml_node mirror, problem_log& log) {
  const bool modern = disk.child("backingStore") || mirror.child("backingStore") || mirror.child("format");
  if (modern && (has_old_chain(disk) || has_old_chain(mirror))) {
    log.add(disk, "<backingStore> together with <backingFile> or <backing>");
  }
}

void read_flags(pugi::xml_node disk, disk_model& model, problem_log& log) {
  check_value(disk, "device", {"disk", "cdrom", "floppy", "lun"}, log);
  model.device = disk.attribute("device").as_string("disk");
  model.readonly = disk.child("readonly") || model.device == "cdrom";
  model.shareable = !disk.child("shareable").empty();
  model.transient = !disk.child("transient").empty();
  read_driver(only_child(disk, "driver", log), model, log);
  if (model.readonly && model.copy_on_read) log.add(disk, "copy_on_read='on' on a read-only disk");
}

}  // namespace

void read_backing_stores(pugi::xml_node head, read_chain& chain, problem_log& log) {
  pugi::xml_node element = only_child(head, "backingStore", log);
  while (element && !log.first()) {
    if (!element.attribute("type")) {
      chain.terminated = true;
      return;
    }
    if (chain.layers.size() >= max_described_layers) return log.add(element, "too many layers");
    read_backing_store(element, chain, log);
    element = only_child(element, "backingStore", log);
  }
}

read_disk read_disk_element(pugi::xml_node disk, problem_log& log) {
  read_disk read;
  const pugi::xml_node target = only_child(disk, "target", log);
  read.model.target = target.attribute("dev").value();
  log.enter(read.model.target);
  read_flags(disk, read.model, log);
  const pugi::xml_node mirror = only_child(disk, "mirror", log);
  check_families(disk, mirror, log);
  read_chain chain;
  if (read_head(disk, read.model, chain, log)) read_below(disk, chain, log);
  read.model.layers = std::move(chain.layers);
  read.model.terminated = chain.terminated;
  read.nodes = std::move(chain.nodes);
  if (mirror) read_mirror(mirror, read, log);
  log.enter({});
  return read;
}

}  // namespace weir::xml
