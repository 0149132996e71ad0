#include "cli/chain_json.hpp"

#include "engine/block/network_protocol.hpp"

#include <boost/json/array.hpp>

#include <string>

namespace weir::cli {
namespace {

namespace json = boost::json;

json::value text_or_null(const std::string& text) {
  return text.empty() ? json::value(nullptr) : json::value(text);
}

/// A port that is not given is the protocol's own.
json::object host_json(const network_host& host, std::string_view protocol) {
  json::object object;
  if (host.transport == "unix") {
    object["transport"] = "unix";
    object["socket"] = host.socket;
    return object;
  }
  object["name"] = host.name;
  std::string port = host.port;
  if (const network_protocol* known = find_network_protocol(protocol); port.empty() && known != nullptr) {
    port = known->default_port;
  }
  if (!port.empty()) object["port"] = port;
  object["transport"] = host.transport.empty() ? "tcp" : host.transport;
  return object;
}

void add_network(json::object& object, const layer_source& source) {
  object["protocol"] = source.protocol;
  object["name"] = source.name;
  json::array hosts;
  for (const network_host& host : source.hosts) hosts.push_back(host_json(host, source.protocol));
  object["hosts"] = std::move(hosts);
  if (!source.query.empty()) object["query"] = source.query;
  if (source.tls) object["tls"] = true;
}

/// Location and everything below the format.
void add_storage(json::object& object, const layer_model& layer) {
  const layer_source& source = layer.source;
  object["type"] = source.type;
  object["location"] = describe(source);
  if (source.type == "network") add_network(object, source);
  for (const auto& [key, value] : source.details) object[key] = value;
  if (!source.fd_group.empty()) object["fdgroup"] = source.fd_group;
  if (layer.slice) object["slice"] = {{"offset", layer.slice->offset}, {"size", layer.slice->size}};
}

json::array layers_json(const std::vector<layer_model>& layers, std::string_view disk_name) {
  json::array array;
  for (std::size_t depth = 0; depth < layers.size(); ++depth) {
    array.push_back(to_json(layers[depth], depth, disk_name));
  }
  return array;
}

}  // namespace

json::object to_json(const layer_model& layer, std::size_t depth, std::string_view disk_name) {
  json::object object;
  const bool declared = layer.index && !layer.index_invented;
  object["index"] = declared ? std::uint64_t{*layer.index} : std::uint64_t{depth};
  if (layer.index && !disk_name.empty()) {
    object["spec"] = std::string(disk_name) + "[" + std::to_string(*layer.index) + "]";
  }
  object["format"] = text_or_null(layer.format);
  add_storage(object, layer);
  if (!layer.data_store.empty()) object["data_store"] = to_json(layer.data_store.front(), 0);
  if (!layer.recorded_name.empty()) object["recorded_name"] = layer.recorded_name;
  return object;
}

json::object to_json(const mirror_model& mirror) {
  json::object object;
  if (!mirror.layers.empty()) {
    const layer_model& head = mirror.layers.front();
    object["format"] = text_or_null(head.format);
    add_storage(object, head);
  }
  object["job"] = mirror.job;
  object["ready"] = text_or_null(mirror.ready);
  object["terminated"] = mirror.terminated;
  object["layers"] = layers_json(mirror.layers, {});
  return object;
}

json::object to_json(const disk_model& disk) {
  return {{"target", text_or_null(disk.target)},
          {"device", disk.device},
          {"readonly", disk.readonly},
          {"terminated", disk.terminated},
          {"layers", layers_json(disk.layers, disk.target)},
          {"mirror", disk.mirror ? json::value(to_json(*disk.mirror)) : json::value(nullptr)}};
}

json::object to_json(const std::vector<disk_model>& disks) {
  json::array array;
  for (const disk_model& disk : disks) array.push_back(to_json(disk));
  return {{"disks", std::move(array)}};
}

json::object to_json(const parsed_backing& parsed) {
  layer_model layer;
  layer.source = parsed.source;
  layer.slice = parsed.slice;
  layer.format = parsed.format;
  json::object object = to_json(layer, 0);
  object.erase("index");
  object["rc"] = parsed.incomplete ? 1 : 0;
  return object;
}

std::optional<found_layer> look_up_layer(const std::vector<disk_model>& disks, std::string_view spec) {
  for (std::size_t disk = 0; disk < disks.size(); ++disk) {
    if (const auto depth = find_layer(disks[disk], spec)) return found_layer{.disk = disk, .depth = *depth};
  }
  return std::nullopt;
}

}  // namespace weir::cli
