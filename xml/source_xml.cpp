#include "xml/source_xml.hpp"

#include "engine/block/network_protocol.hpp"
#include "xml/elements.hpp"

#include <algorithm>
#include <array>

namespace weir::xml {
namespace {

using std::string;

/// Details that are an attribute of a child of <source>.
struct child_detail {
  const char* detail;
  const char* child;
  const char* attribute;
};
constexpr std::array child_details{
    child_detail{"snapshot", "snapshot", "name"},     child_detail{"config", "config", "file"},
    child_detail{"user", "identity", "user"},         child_detail{"group", "identity", "group"},
    child_detail{"username", "identity", "username"}, child_detail{"sslverify", "ssl", "verify"},
    child_detail{"readahead", "readahead", "size"},   child_detail{"timeout", "timeout", "seconds"},
};
constexpr std::array attribute_details{"pool", "volume", "mode", "namespace", "tlsHostname"};

network_host read_host(pugi::xml_node node, problem_log& log) {
  network_host host{.name = node.attribute("name").value(),
                    .port = "",
                    .transport = node.attribute("transport").value(),
                    .socket = node.attribute("socket").value()};
  check_value(node, "transport", {"tcp", "unix", "rdma"}, log);
  if (const auto port = number_attribute(node, "port", log)) {
    if (*port > 65535) log.add(node, "<host>: port out of range");
    if (*port != 0) host.port = std::to_string(*port);
  }
  if (host.transport == "tcp") host.transport.clear();
  const bool is_unix = host.transport == "unix";
  if (is_unix && host.socket.empty()) log.add(node, "<host transport='unix'> without a socket");
  if (!is_unix && !host.socket.empty()) log.add(node, "<host socket=> needs transport='unix'");
  if (!is_unix && host.name.empty()) log.add(node, "<host> without a name");
  return host;
}

void check_network(pugi::xml_node node, const layer_source& source, problem_log& log) {
  const network_protocol* protocol = find_network_protocol(source.protocol);
  if (protocol == nullptr) {
    return log.add(node, source.protocol.empty() ? string("network source without a protocol")
                                                 : "unknown protocol '" + source.protocol + "'");
  }
  if (source.name.empty() && source.protocol != "nbd")
    log.add(node, source.protocol + " source without a name");
  const std::size_t slash = source.name.find('/');
  if (protocol->name_has_slash && (slash == string::npos || slash == 0)) {
    log.add(node, source.protocol + " name '" + source.name + "' is not of the form A/B");
  }
  if (protocol->needs_host && source.hosts.empty())
    log.add(node, source.protocol + " source without a <host>");
  if (protocol->single_host && source.hosts.size() > 1) log.add(node, source.protocol + " takes one <host>");
  if (source.protocol == "nfs" &&
      std::ranges::any_of(source.hosts, [](auto& host) { return !host.port.empty(); })) {
    log.add(node, "nfs takes no port");
  }
}

void read_network(pugi::xml_node node, layer_source& source, problem_log& log) {
  source.protocol = node.attribute("protocol").value();
  source.name = node.attribute("name").value();
  source.query = node.attribute("query").value();
  check_value(node, "tls", {"yes", "no"}, log);
  source.tls = string(node.attribute("tls").value()) == "yes";
  for (const pugi::xml_node host : node.children("host")) source.hosts.push_back(read_host(host, log));
  check_network(node, source, log);
}

string pci_address(pugi::xml_node address) {
  const auto part = [&](const char* name) {
    const string text = address.attribute(name).value();
    return text.starts_with("0x") ? text.substr(2) : text;
  };
  return part("domain") + ":" + part("bus") + ":" + part("slot") + "." + part("function");
}

void read_details(pugi::xml_node node, layer_source& source) {
  for (const char* name : attribute_details) {
    if (const auto attribute = node.attribute(name)) source.details.emplace_back(name, attribute.value());
  }
  for (const child_detail& detail : child_details) {
    if (const auto attribute = node.child(detail.child).attribute(detail.attribute)) {
      source.details.emplace_back(detail.detail, attribute.value());
    }
  }
  if (const auto iqn = node.child("initiator").child("iqn").attribute("name")) {
    source.details.emplace_back("initiator", iqn.value());
  }
  if (source.type != "nvme") return;
  if (const auto address = node.child("address"))
    source.details.emplace_back("address", pci_address(address));
}

bool is_web(const layer_source& source) {
  return source.protocol == "http" || source.protocol == "https";
}

/// A cookie's name or value as RFC 6265 has them (libvirt asks for the same); a value may be quoted.
bool is_cookie_text(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return c > ' ' && c < 0x7f && c != ',' && c != ';' && c != '\\';
  });
}

void read_cookies(pugi::xml_node node, layer_source& source, problem_log& log) {
  for (const pugi::xml_node cookie : node.child("cookies").children("cookie")) {
    const string name = cookie.attribute("name").value();
    const string value = cookie.text().get();
    // Not even a malformed one is shown.
    if (!is_cookie_text(name) || !is_cookie_text(value) || name.find('=') != string::npos) {
      log.add(cookie, "<cookie> without a proper name and value");
      continue;
    }
    if (!source.secrets.cookies.empty()) source.secrets.cookies.append("; ");
    source.secrets.cookies.append(name).append("=").append(value);
  }
}

/// What opening must not ignore.
string unsupported_in(pugi::xml_node node, const layer_source& source) {
  if (node.child("encryption")) return "<encryption>";
  if (node.child("auth")) return "<auth>, whose password libvirt keeps,";
  if (node.child("cookies") && !is_web(source)) return "<cookies>";
  return {};
}

void read_slice(pugi::xml_node node, layer_model& layer, problem_log& log) {
  const pugi::xml_node slices = only_child(node, "slices", log);
  if (!slices) return;
  const pugi::xml_node slice = only_child(slices, "slice", log);
  check_value(slice, "type", {"storage"}, log);
  const auto offset = number_attribute(slice, "offset", log);
  const auto size = number_attribute(slice, "size", log);
  if (!offset || !size || *size == 0) return log.add(slices, "<slice> needs offset and size");
  layer.slice = storage_slice{.offset = *offset, .size = *size};
}

void read_data_store(pugi::xml_node node, layer_model& layer, problem_log& log) {
  const pugi::xml_node store = only_child(node, "dataStore", log);
  if (!store) return;
  layer_model data;
  const string type = store.attribute("type").as_string("file");
  if (!is_source_type(type)) return log.add(store, "<dataStore type='" + type + "'>: unknown type");
  const pugi::xml_node source = only_child(store, "source", log);
  if (!source) return log.add(store, "<dataStore> without a <source>");
  data.format = store.child("format").attribute("type").as_string("raw");
  data.source = read_location(type, source, log);
  read_slice(source, data, log);
  if (source.child("dataStore")) log.add(source, "a data file cannot have a data file");
  layer.data_store.push_back(std::move(data));
}

void check_location(pugi::xml_node node, const layer_source& source, problem_log& log) {
  if (source.type == "network") return;
  const auto has = [&](const char* name) { return !node.attribute(name).empty(); };
  if (source.type == "volume" && (!has("pool") || !has("volume"))) {
    log.add(node, "volume source needs pool and volume");
  }
  if (source.type == "nvme") {
    const auto name_space = number_attribute(node, "namespace", log);
    if (!name_space || *name_space == 0) log.add(node, "nvme source needs a namespace of at least 1");
    if (!node.child("address")) log.add(node, "nvme source needs an <address>");
  }
}

void write_host(pugi::xml_node source, const network_host& host) {
  const pugi::xml_node node = source.append_child("host");
  put_attribute(node, "name", host.name);
  put_attribute(node, "port", host.port);
  put_attribute(node, "transport", host.transport);
  put_attribute(node, "socket", host.socket);
}

void write_address(pugi::xml_node source, const string& address) {
  const pugi::xml_node node = source.append_child("address");
  const auto dot = address.rfind('.');
  const auto second = address.find(':', address.find(':') + 1);
  put_attribute(node, "domain", "0x" + address.substr(0, address.find(':')));
  put_attribute(node, "bus", "0x" + address.substr(address.find(':') + 1, second - address.find(':') - 1));
  put_attribute(node, "slot", "0x" + address.substr(second + 1, dot - second - 1));
  put_attribute(node, "function", "0x" + address.substr(dot + 1));
}

void write_detail(pugi::xml_node source, const string& key, const string& value) {
  if (std::ranges::find(attribute_details, key) != attribute_details.end()) {
    return put_attribute(source, key.c_str(), value);
  }
  if (key == "address") return write_address(source, value);
  if (key == "initiator") {
    return put_attribute(source.append_child("initiator").append_child("iqn"), "name", value);
  }
  const auto found = std::ranges::find(child_details, key, &child_detail::detail);
  if (found == child_details.end()) return;
  pugi::xml_node child = source.child(found->child);
  if (!child) child = source.append_child(found->child);
  put_attribute(child, found->attribute, value);
}

const char* path_attribute(std::string_view type) {
  if (type == "file") return "file";
  if (type == "dir") return "dir";
  if (type == "vhostuser") return "path";
  return "dev";
}

void write_location(pugi::xml_node source, const layer_source& location) {
  if (location.type == "nvme") put_attribute(source, "type", "pci");
  if (location.type == "vhostuser") put_attribute(source, "type", "unix");
  if (!location.path.empty()) put_attribute(source, path_attribute(location.type), location.path);
  put_attribute(source, "fdgroup", location.fd_group);
  put_attribute(source, "protocol", location.protocol);
  if (location.type == "network") {
    if (!location.name.empty()) put_attribute(source, "name", location.name);
    put_attribute(source, "query", location.query);
    if (location.tls) put_attribute(source, "tls", "yes");
  }
  for (const network_host& host : location.hosts) write_host(source, host);
  for (const auto& [key, value] : location.details) write_detail(source, key, value);
}

void write_slice(pugi::xml_node source, const std::optional<storage_slice>& slice) {
  if (!slice) return;
  const pugi::xml_node node = source.append_child("slices").append_child("slice");
  put_attribute(node, "type", "storage");
  put_attribute(node, "offset", std::to_string(slice->offset));
  put_attribute(node, "size", std::to_string(slice->size));
}

}  // namespace

bool is_source_type(std::string_view type) noexcept {
  constexpr std::array<std::string_view, 8> types{"file",   "block", "dir",       "network",
                                                  "volume", "nvme",  "vhostuser", "vhostvdpa"};
  return std::ranges::find(types, type) != types.end();
}

bool is_format(std::string_view format) noexcept {
  constexpr std::array<std::string_view, 17> formats{"raw", "dir",  "bochs", "cloop", "dmg",   "iso",
                                                     "vpc", "vdi",  "fat",   "vhd",   "ploop", "luks",
                                                     "cow", "qcow", "qcow2", "qed",   "vmdk"};
  return std::ranges::find(formats, format) != formats.end();
}

bool names_nothing(const layer_source& source) noexcept {
  const bool has_path = source.type == "file" || source.type == "dir" || source.type == "block" ||
                        source.type == "vhostuser" || source.type == "vhostvdpa";
  return has_path && source.path.empty() && source.fd_group.empty();
}

layer_source read_location(std::string_view type, pugi::xml_node element, problem_log& log) {
  layer_source source;
  source.type = type;
  if (type == "network") {
    read_network(element, source, log);
  } else if (type == "file" || type == "dir" || type == "block" || type == "vhostuser" ||
             type == "vhostvdpa") {
    source.path = element.attribute(path_attribute(type)).value();
    source.fd_group = element.attribute("fdgroup").value();
  }
  read_details(element, source);
  check_location(element, source, log);
  if (is_web(source)) read_cookies(element, source, log);
  source.unsupported = unsupported_in(element, source);
  return source;
}

void read_source(std::string_view type, pugi::xml_node source, layer_model& layer, problem_log& log) {
  layer.source = read_location(type, source, log);
  read_slice(source, layer, log);
  read_data_store(source, layer, log);
  if (const auto index = number_attribute(source, "index", log); index && *index <= 1'000'000'000) {
    layer.index = static_cast<unsigned>(*index);
  }
}

void write_source(pugi::xml_node source, const layer_model& layer) {
  write_location(source, layer.source);
  write_slice(source, layer.slice);
  for (const layer_model& data : layer.data_store) {
    pugi::xml_node store = source.append_child("dataStore");
    put_attribute(store, "type", data.source.type);
    put_attribute(store.append_child("format"), "type", data.format);
    const pugi::xml_node inner = store.append_child("source");
    write_location(inner, data.source);
    write_slice(inner, data.slice);
  }
}

}  // namespace weir::xml
