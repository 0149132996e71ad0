// The `json:{…}` form of a backing name: QEMU's blockdev options as far as they name storage. Formats (qcow2, …) are
// refused as drivers, since the format comes from the overlay's header. Dotted keys are expanded first, at any level.
#include "engine/block/backing_uri.hpp"
#include "engine/block/json_dotted.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>

#include <algorithm>
#include <array>
#include <charconv>

namespace weir::backing {
namespace {

namespace json = boost::json;

constexpr std::size_t max_json_depth = 16;
constexpr std::size_t max_hosts = 64;

using parts_result = outcome<void>;

failure wrong(std::string_view why) {
  return make_failure(errc::unsupported_feature, "json backing name", why);
}

// Members -----------------------------------------------------------------------------------------------------

/// A string member, or nothing.
std::optional<std::string> text_of(const json::object& from, std::string_view key) {
  const json::value* value = from.if_contains(key);
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return std::string(value->get_string());
}

/// A member that is a string or a whole number, as text.
std::optional<std::string> text_or_number(const json::object& from, std::string_view key) {
  const json::value* value = from.if_contains(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_int64()) return std::to_string(value->get_int64());
  if (value->is_uint64()) return std::to_string(value->get_uint64());
  return text_of(from, key);
}

/// An unsigned number, or one written as a string.
std::optional<std::uint64_t> number_of(const json::object& from, std::string_view key) {
  const std::optional<std::string> text = text_or_number(from, key);
  if (!text) return std::nullopt;
  std::uint64_t number = 0;
  const char* const last = text->data() + text->size();
  const auto [end, error] = std::from_chars(text->data(), last, number);
  if (error != std::errc{} || end != last) return std::nullopt;
  return number;
}

bool add_port(const json::object& from, network_host& host) {
  if (!from.contains("port")) return true;
  host.port = text_or_number(from, "port").value_or("");
  return is_port(host.port);
}

parts_result add_inet(const json::object& from, std::vector<network_host>& hosts) {
  network_host host;
  const auto name = text_of(from, "host");
  if (!name || name->empty()) return wrong("a server without \"host\"");
  host.name = *name;
  if (!add_port(from, host)) return wrong("bad \"port\"");
  hosts.push_back(std::move(host));
  return {};
}

/// {type inet|tcp: host, port; unix: path or (old) socket}.
parts_result add_address(const json::object& from, std::vector<network_host>& hosts) {
  const std::string type = text_of(from, "type").value_or("");
  if (type == "inet" || type == "tcp") return add_inet(from, hosts);
  if (type != "unix") return wrong("a server's \"type\" must be inet or unix");
  network_host host;
  host.transport = "unix";
  host.socket = text_of(from, "path").value_or(text_of(from, "socket").value_or(""));
  if (host.socket.empty()) return wrong("a unix server without \"path\"");
  hosts.push_back(std::move(host));
  return {};
}

using add_server = parts_result (*)(const json::object&, std::vector<network_host>&);

parts_result add_servers(const json::object& from, layer_source& source, add_server add) {
  const json::value* servers = from.if_contains("server");
  if (servers == nullptr || !servers->is_array()) return wrong("\"server\" must be a list");
  if (servers->get_array().size() > max_hosts) return wrong("too many servers");
  for (const json::value& server : servers->get_array()) {
    if (!server.is_object()) return wrong("a server must be an object");
    if (parts_result added = add(server.get_object(), source.hosts); !added) return added;
  }
  return {};
}

parts_result add_one_server(const json::object& from, layer_source& source, add_server add) {
  const json::value* server = from.if_contains("server");
  if (server == nullptr || !server->is_object()) return wrong("\"server\" must be an object");
  return add(server->get_object(), source.hosts);
}

/// `server`, or the flat `host` and `port`.
parts_result add_server_or_host(const json::object& from, layer_source& source, add_server add) {
  if (from.contains("server")) return add_one_server(from, source, add);
  return add_inet(from, source.hosts);
}

void add_detail(const json::object& from, std::string_view key, std::string_view name, layer_source& source) {
  if (const auto text = text_or_number(from, key)) source.details.emplace_back(name, *text);
}

// Drivers -----------------------------------------------------------------------------------------------------

outcome<parsed_backing> network(std::string_view protocol) {
  parsed_backing parsed;
  parsed.source.type = "network";
  parsed.source.protocol = protocol;
  return parsed;
}

outcome<parsed_backing> uri_of(std::string_view driver, const std::string& uri) {
  if (!uri.starts_with(std::string(driver)) || uri.find("://") == std::string::npos) {
    return wrong("the URI's scheme must be " + std::string(driver));
  }
  outcome<parsed_backing> parsed = parse_uri(uri);
  if (parsed && parsed->source.protocol != driver)
    return wrong("the URI's scheme must be " + std::string(driver));
  return parsed;
}

outcome<parsed_backing> path_driver(std::string_view driver, const json::object& from) {
  parsed_backing parsed;
  const auto path = text_of(from, "filename");
  if (!path || path->empty()) return wrong("no \"filename\"");
  parsed.source.type = driver == "file" ? "file" : "block";
  parsed.source.path = *path;
  return parsed;
}

outcome<parsed_backing> url_driver(std::string_view driver, const json::object& from) {
  const auto url = text_of(from, "url");
  if (!url) return wrong("no \"url\"");
  outcome<parsed_backing> parsed = uri_of(driver, *url);
  if (!parsed) return parsed;
  if (const json::value* verify = from.if_contains("sslverify")) {
    const bool off =
        (verify->is_string() && verify->get_string() == "off") || (verify->is_bool() && !verify->get_bool());
    if (!off && !verify->is_bool()) return wrong("bad \"sslverify\"");
    parsed->source.details.emplace_back("sslverify", off ? "no" : "yes");
  }
  for (const std::string_view key : {"readahead", "timeout"}) {
    if (!from.contains(key)) continue;
    if (!number_of(from, key)) return wrong("bad \"" + std::string(key) + "\"");
    add_detail(from, key, key, parsed->source);
  }
  if (const json::value* cookie = from.if_contains("cookie")) {
    if (!cookie->is_string() || cookie->get_string().find('=') == json::string::npos)
      return wrong("bad \"cookie\"");
    if (cookie->get_string().find_first_of("\r\n") != json::string::npos) return wrong("bad \"cookie\"");
    parsed->source.secrets.cookies = std::string(cookie->get_string());
    parsed->incomplete = true;
  }
  return parsed;
}

outcome<parsed_backing> gluster_driver(std::string_view driver, const json::object& from) {
  if (const auto uri = text_of(from, "filename")) return uri_of(driver, *uri);
  outcome<parsed_backing> parsed = network(driver);
  const auto volume = text_of(from, "volume");
  const auto path = text_of(from, "path");
  if (!volume || !path) return wrong("gluster needs \"volume\", \"path\" and \"server\"");
  if (const parts_result added = add_servers(from, parsed->source, add_address); !added) return added.error();
  if (parsed->source.hosts.empty()) return wrong("gluster needs a server");
  parsed->source.name = *volume + "/" + *path;
  return parsed;
}

outcome<parsed_backing> iscsi_driver(std::string_view driver, const json::object& from) {
  if (const auto uri = text_of(from, "filename")) return uri_of(driver, *uri);
  if (text_of(from, "transport") != "tcp") return wrong("iscsi's \"transport\" must be tcp");
  const auto portal = text_of(from, "portal");
  const auto target = text_of(from, "target");
  if (!portal || !target) return wrong("iscsi needs \"portal\" and \"target\"");
  outcome<parsed_backing> parsed = parse_uri("iscsi://" + *portal + "/");
  if (!parsed) return wrong("bad \"portal\"");
  parsed->source.name = *target + "/" + text_or_number(from, "lun").value_or("0");
  parsed->incomplete = from.contains("user") || from.contains("password");
  return parsed;
}

outcome<parsed_backing> nbd_driver(std::string_view driver, const json::object& from) {
  outcome<parsed_backing> parsed = network(driver);
  layer_source& source = parsed->source;
  source.name = text_of(from, "export").value_or("");
  if (from.contains("tls-creds")) source.tls = true;
  if (!from.contains("server") && from.contains("path")) {
    const auto path = text_of(from, "path");
    if (!path || path->empty()) return wrong("bad \"path\"");
    source.hosts.push_back({.name = "", .port = "", .transport = "unix", .socket = *path});
    return parsed;
  }
  if (const parts_result added = add_server_or_host(from, source, add_address); !added) return added.error();
  return parsed;
}

outcome<parsed_backing> rbd_driver(std::string_view driver, const json::object& from) {
  if (const auto name = text_of(from, "filename")) {
    return parse_rbd_colon(name->starts_with("rbd:") ? *name : "rbd:" + *name);
  }
  outcome<parsed_backing> parsed = network(driver);
  const auto pool = text_of(from, "pool");
  const auto image = text_of(from, "image");
  if (!pool || !image) return wrong("rbd needs \"pool\" and \"image\"");
  if (from.contains("server")) {
    if (const parts_result added = add_servers(from, parsed->source, add_inet); !added) return added.error();
  }
  parsed->source.name = *pool + "/" + *image;
  add_detail(from, "snapshot", "snapshot", parsed->source);
  add_detail(from, "conf", "config", parsed->source);
  return parsed;
}

outcome<parsed_backing> ssh_driver(std::string_view driver, const json::object& from) {
  outcome<parsed_backing> parsed = network(driver);
  const auto path = text_of(from, "path");
  if (!path) return wrong("ssh needs \"path\" and a server");
  parsed->source.name = *path;
  if (const parts_result added = add_server_or_host(from, parsed->source, add_inet); !added)
    return added.error();
  add_detail(from, "user", "user", parsed->source);
  add_detail(from, "host_key_check", "host_key_check", parsed->source);
  return parsed;
}

outcome<parsed_backing> sheepdog_driver(std::string_view driver, const json::object& from) {
  if (const auto uri = text_of(from, "filename")) return uri_of(driver, *uri);
  outcome<parsed_backing> parsed = network(driver);
  const auto vdi = text_of(from, "vdi");
  if (!vdi) return wrong("sheepdog needs \"vdi\"");
  parsed->source.name = *vdi;
  if (const parts_result added = add_one_server(from, parsed->source, add_address); !added)
    return added.error();
  return parsed;
}

outcome<parsed_backing> vxhs_driver(std::string_view driver, const json::object& from) {
  outcome<parsed_backing> parsed = network(driver);
  const auto disk = text_of(from, "vdisk-id");
  if (!disk) return wrong("vxhs needs \"vdisk-id\"");
  parsed->source.name = *disk;
  if (const parts_result added = add_one_server(from, parsed->source, add_inet); !added) return added.error();
  return parsed;
}

outcome<parsed_backing> nfs_driver(std::string_view driver, const json::object& from) {
  outcome<parsed_backing> parsed = network(driver);
  const auto path = text_of(from, "path");
  const auto user = number_of(from, "user");
  const auto group = number_of(from, "group");
  if (!path || !user || !group) return wrong("nfs needs \"path\", \"server\", \"user\" and \"group\"");
  parsed->source.name = *path;
  if (const parts_result added = add_one_server(from, parsed->source, add_inet); !added) return added.error();
  parsed->source.details = {{"user", "+" + std::to_string(*user)}, {"group", "+" + std::to_string(*group)}};
  return parsed;
}

/// "0000:01:00.0".
bool is_pci_address(std::string_view text) {
  constexpr std::string_view pattern = "xxxx:xx:xx.o";
  if (text.size() != pattern.size()) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const std::string_view allowed = pattern[i] == 'x'   ? "0123456789abcdefABCDEF"
                                     : pattern[i] == 'o' ? "01234567"
                                                         : pattern.substr(i, 1);
    if (allowed.find(text[i]) == std::string_view::npos) return false;
  }
  return true;
}

outcome<parsed_backing> nvme_driver(std::string_view, const json::object& from) {
  parsed_backing parsed;
  const auto device = text_of(from, "device");
  const auto name_space = number_of(from, "namespace");
  if (!device || !is_pci_address(*device)) return wrong("nvme needs \"device\", a PCI address");
  if (!name_space || *name_space == 0) return wrong("nvme needs \"namespace\", at least 1");
  parsed.source.type = "nvme";
  parsed.source.details = {{"namespace", std::to_string(*name_space)}, {"address", *device}};
  return parsed;
}

struct driver_entry {
  std::string_view name;
  outcome<parsed_backing> (*parse)(std::string_view driver, const json::object& from);
};

constexpr std::array drivers{
    driver_entry{"file", path_driver},       driver_entry{"host_device", path_driver},
    driver_entry{"host_cdrom", path_driver}, driver_entry{"http", url_driver},
    driver_entry{"https", url_driver},       driver_entry{"ftp", url_driver},
    driver_entry{"ftps", url_driver},        driver_entry{"tftp", url_driver},
    driver_entry{"gluster", gluster_driver}, driver_entry{"iscsi", iscsi_driver},
    driver_entry{"nbd", nbd_driver},         driver_entry{"rbd", rbd_driver},
    driver_entry{"ssh", ssh_driver},         driver_entry{"sheepdog", sheepdog_driver},
    driver_entry{"vxhs", vxhs_driver},       driver_entry{"nfs", nfs_driver},
    driver_entry{"nvme", nvme_driver},
};

outcome<parsed_backing> parse_driver(const json::object& from) {
  const auto name = text_of(from, "driver");
  if (!name) return wrong("no \"driver\"");
  const auto found = std::ranges::find(drivers, *name, &driver_entry::name);
  if (found == drivers.end()) return wrong("driver '" + *name + "' names no storage weir knows");
  return found->parse(found->name, from);
}

/// The outermost driver may be raw, with a window of its storage.
outcome<parsed_backing> parse_outermost(const json::object& from) {
  if (text_of(from, "driver") != "raw") return parse_driver(from);
  const json::value* file = from.if_contains("file");
  if (file == nullptr || !file->is_object()) return wrong("\"raw\" without a \"file\" object");
  outcome<parsed_backing> parsed = parse_driver(file->get_object());
  if (!parsed || (!from.contains("offset") && !from.contains("size"))) return parsed;
  storage_slice slice;
  for (auto [key, value] : {std::pair{"offset", &slice.offset}, std::pair{"size", &slice.size}}) {
    if (!from.contains(key)) continue;
    const auto number = number_of(from, key);
    if (!number) return wrong("bad \"" + std::string(key) + "\"");
    *value = *number;
  }
  parsed->slice = slice;
  return parsed;
}

}  // namespace

outcome<parsed_backing> parse_json(std::string_view text) {
  json::parse_options options;
  options.max_depth = max_json_depth;
  boost::system::error_code error;
  json::value root = json::parse(text, error, json::storage_ptr{}, options);
  if (error) return wrong("not valid JSON: " + error.message());
  if (!root.is_object()) return wrong("not a JSON object");
  if (!expand_dotted_keys(root)) return wrong("dotted keys contradict each other");
  if (!root.is_object()) return wrong("not a JSON object");
  const json::object& object = root.get_object();
  const json::value* file = object.if_contains("file");
  if (!object.contains("driver") && file != nullptr && file->is_object())
    return parse_outermost(file->get_object());
  return parse_outermost(object);
}

}  // namespace weir::backing
