#include "engine/block/backing_uri.hpp"

#include "engine/block/network_protocol.hpp"

#include <algorithm>
#include <charconv>

namespace weir::backing {
namespace {

constexpr auto npos = std::string_view::npos;

struct uri_parts {
  std::string_view scheme;
  std::string_view authority;
  std::string_view path;
  std::string_view query;
};

uri_parts split(std::string_view text) {
  uri_parts parts;
  const std::size_t colon = text.find("://");
  parts.scheme = text.substr(0, colon);
  text.remove_prefix(colon + 3);
  const std::size_t end = text.find_first_of("/?");
  parts.authority = text.substr(0, end);
  text.remove_prefix(std::min(end, text.size()));
  const std::size_t question = text.find('?');
  parts.path = text.substr(0, question);
  if (question != npos) parts.query = text.substr(question + 1);
  return parts;
}

int hexadecimal(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

/// Nothing for a broken or zero escape.
std::optional<std::string> unescape(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      plain.push_back(text[i]);
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hexadecimal(text[i + 1]);
    const int low = hexadecimal(text[i + 2]);
    if (high < 0 || low < 0 || high + low == 0) return std::nullopt;
    plain.push_back(static_cast<char>(high * 16 + low));
    i += 2;
  }
  return plain;
}

/// `user[:password]`. False if malformed.
bool parse_user(std::string_view text, layer_secrets& secrets) {
  const std::size_t colon = text.find(':');
  const auto user = unescape(text.substr(0, colon));
  const auto password = unescape(colon == npos ? std::string_view{} : text.substr(colon + 1));
  if (!user || !password) return false;
  secrets.user = *user;
  secrets.password = *password;
  return true;
}

/// `[v6]:port`, `host:port` or `host`. False if malformed.
bool parse_authority(std::string_view text, network_host& host) {
  std::string_view port;
  bool has_port = false;
  if (text.starts_with('[')) {
    const std::size_t close = text.find(']');
    if (close == npos) return false;
    host.name = text.substr(1, close - 1);
    text.remove_prefix(close + 1);
    has_port = text.starts_with(':');
    if (!has_port && !text.empty()) return false;
    if (has_port) port = text.substr(1);
  } else {
    const std::size_t colon = text.find(':');
    has_port = colon != npos;
    host.name = text.substr(0, colon);
    if (has_port) port = text.substr(colon + 1);
  }
  if (has_port && !is_port(port)) return false;
  host.port = port;
  return true;
}

/// The value of `socket=` among a query's parameters.
std::optional<std::string_view> socket_of(std::string_view query) {
  while (!query.empty()) {
    const std::size_t end = query.find('&');
    const std::string_view parameter = query.substr(0, end);
    if (parameter.starts_with("socket=")) return parameter.substr(7);
    query.remove_prefix(end == npos ? query.size() : end + 1);
  }
  return std::nullopt;
}

/// Scheme → protocol, transport and tls. A text says what is wrong; empty = nothing.
std::string parse_scheme(std::string_view scheme, layer_source& source, network_host& host) {
  const std::size_t plus = scheme.find('+');
  source.protocol = scheme.substr(0, plus);
  if (source.protocol == "nbds") {
    source.protocol = "nbd";
    source.tls = true;
  }
  if (find_network_protocol(source.protocol) == nullptr) {
    return "unknown protocol '" + source.protocol + "'";
  }
  if (plus == npos) return {};
  host.transport = scheme.substr(plus + 1);
  if (host.transport != "tcp" && host.transport != "unix" && host.transport != "rdma") {
    return "unknown transport '" + host.transport + "'";
  }
  if (host.transport == "tcp") host.transport.clear();
  return {};
}

std::string parse_query(std::string_view query, layer_source& source, network_host& host) {
  if (source.protocol == "http" || source.protocol == "https") {
    source.query = query;
  } else if (const auto socket = socket_of(query)) {
    if (host.transport != "unix") return "a socket needs a +unix transport";
    const auto plain = unescape(*socket);
    if (!plain) return "bad escape in the socket's path";
    host.socket = *plain;
  }
  if (host.transport == "unix" && host.socket.empty()) return "no socket is named";
  return {};
}

/// Splits off everything up to the first `separator` that no backslash protects; both are consumed.
std::string_view take_option(std::string_view& text) {
  std::size_t end = 0;
  while (end < text.size() && text[end] != ':') end += text[end] == '\\' ? 2 : 1;
  end = std::min(end, text.size());
  const std::string_view option = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return option;
}

std::string without_backslashes(std::string_view text) {
  std::string plain;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 1 < text.size()) ++i;
    plain.push_back(text[i]);
  }
  return plain;
}

/// `a\:6789\;[::1]\:6789\,b`. False if a port is malformed.
bool parse_monitors(std::string_view text, std::vector<network_host>& hosts) {
  while (!text.empty()) {
    std::size_t end = 0;
    while (end < text.size() && !(text[end] == '\\' && end + 1 < text.size() &&
                                  (text[end + 1] == ';' || text[end + 1] == ',' || text[end + 1] == ' '))) {
      ++end;
    }
    network_host host;
    if (!parse_authority(without_backslashes(text.substr(0, end)), host)) return false;
    if (!host.name.empty()) hosts.push_back(std::move(host));
    text.remove_prefix(std::min(end + 2, text.size()));
  }
  return true;
}

}  // namespace

failure malformed(std::string_view text, std::string_view why) {
  const std::size_t authority = text.find("://");
  // Nobody knows which part of a malformed name is a password.
  const bool may_hold_secrets = authority != npos && text.find('@', authority) != npos;
  const std::string shown(text.substr(0, may_hold_secrets ? authority + 3 : 256));
  return make_failure(errc::unsupported_feature, may_hold_secrets ? shown + "..." : shown, why);
}

bool is_port(std::string_view text) noexcept {
  unsigned port = 0;
  const char* const last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, port);
  return error == std::errc{} && end == last && port >= 1 && port <= 65535;
}

outcome<parsed_backing> parse_uri(std::string_view text) {
  parsed_backing parsed;
  layer_source& source = parsed.source;
  source.type = "network";
  network_host host;
  uri_parts parts = split(text);
  if (const std::string why = parse_scheme(parts.scheme, source, host); !why.empty())
    return malformed(text, why);
  if (const std::string why = parse_query(parts.query, source, host); !why.empty())
    return malformed(text, why);
  if (const std::size_t at = parts.authority.rfind('@'); at != npos) {
    parsed.incomplete = true;
    if (!parse_user(parts.authority.substr(0, at), source.secrets))
      return malformed(text, "bad escape in user or password");
    parts.authority.remove_prefix(at + 1);
  }
  if (!parse_authority(parts.authority, host)) return malformed(text, "bad server or port");
  if (host.transport == "unix" && !host.name.empty()) return malformed(text, "both a server and a socket");
  // Exactly one slash separates the server from the name; more belong to the name.
  if (parts.path.starts_with('/')) parts.path.remove_prefix(1);
  const auto name = unescape(parts.path);
  if (!name) return malformed(text, "bad escape in the name");
  source.name = *name;
  const network_protocol& protocol = *find_network_protocol(source.protocol);
  const std::size_t slash = source.name.find('/');
  if (source.protocol == "gluster" && (slash == npos || slash == 0)) return malformed(text, "no VOLUME/PATH");
  if (host.transport != "unix" && host.name.empty() && (protocol.needs_host || source.protocol == "nbd")) {
    return malformed(text, "no server is named");
  }
  if (!host.name.empty() || !host.socket.empty()) source.hosts.push_back(std::move(host));
  return parsed;
}

outcome<parsed_backing> parse_nbd_colon(std::string_view text) {
  constexpr std::string_view export_key = ":exportname=";
  parsed_backing parsed;
  parsed.source.type = "network";
  parsed.source.protocol = "nbd";
  network_host host;
  std::string_view server = text.substr(4);
  if (const std::size_t cut = text.find(export_key); cut != npos) {
    parsed.source.name = text.substr(cut + export_key.size());
    server = cut < 4 ? std::string_view{} : text.substr(4, cut - 4);
  }
  if (server.starts_with("unix:")) {
    host.transport = "unix";
    host.socket = server.substr(5);
    if (host.socket.empty()) return malformed(text, "no socket is named");
  } else if (!parse_authority(server, host) || host.name.empty() || host.port.empty()) {
    return malformed(text, "needs HOST:PORT or unix:PATH");
  }
  parsed.source.hosts.push_back(std::move(host));
  return parsed;
}

outcome<parsed_backing> parse_rbd_colon(std::string_view text) {
  parsed_backing parsed;
  layer_source& source = parsed.source;
  source.type = "network";
  source.protocol = "rbd";
  std::string_view options = text.substr(4);
  const std::string_view image = take_option(options);
  const std::size_t at = image.find('@');
  source.name = without_backslashes(image.substr(0, at));
  if (source.name.empty()) return malformed(text, "no image is named");
  std::string config;
  while (!options.empty()) {
    const std::string_view option = take_option(options);
    if (option.starts_with("mon_host=") && !parse_monitors(option.substr(9), source.hosts)) {
      return malformed(text, "bad monitor address");
    }
    if (option.starts_with("conf=")) config = without_backslashes(option.substr(5));
  }
  if (at != npos) source.details.emplace_back("snapshot", without_backslashes(image.substr(at + 1)));
  if (!config.empty()) source.details.emplace_back("config", config);
  return parsed;
}

}  // namespace weir::backing
