#include "engine/block/backing_name.hpp"

#include "engine/block/backing_uri.hpp"

#include <algorithm>

namespace weir {
namespace {

constexpr auto npos = std::string_view::npos;

/// A colon before the first slash makes a protocol.
bool is_path(std::string_view text) noexcept {
  const std::size_t colon = text.find(':');
  return colon == npos || text.find('/') < colon;
}

/// The directory part of a name with its last slash; empty where there is none.
std::string_view directory_of(std::string_view name) noexcept {
  const std::size_t slash = name.rfind('/');
  return slash == npos ? std::string_view{} : name.substr(0, slash + 1);
}

bool names_descriptor(std::string_view path) noexcept {
  return path.starts_with("fd:");
}

/// Where the relative path `text` lies, beside `parent`.
outcome<parsed_backing> join(std::string_view text, const layer_source& parent) {
  parsed_backing parsed;
  if (parent.type == "network") {
    parsed.source = parent;
    parsed.source.name = std::string(directory_of(parent.name)).append(text);
    return parsed;
  }
  const bool has_directory = parent.type == "file" || parent.type == "block" || parent.type == "dir";
  if (!has_directory || names_descriptor(parent.path) || (parent.path.empty() && !parent.fd_group.empty())) {
    return backing::malformed(text, "relative to " + describe(parent) + ", which is in no directory");
  }
  parsed.source.path = std::string(directory_of(parent.path)).append(text);
  return parsed;
}

outcome<parsed_backing> parse_path(std::string_view text, const layer_source& parent) {
  if (!text.starts_with('/')) return join(text, parent);
  parsed_backing parsed;
  parsed.source.path = text;
  return parsed;
}

/// `file:/p`, `file:///p`, `file:name`: QEMU reads them, nobody should write them.
outcome<parsed_backing> parse_file_scheme(std::string_view text, const layer_source& parent) {
  std::string_view path = text.substr(5);
  if (path.starts_with("//")) {
    path.remove_prefix(2);
    if (!path.starts_with('/')) return backing::malformed(text, "a file on another host");
  }
  if (path.empty()) return backing::malformed(text, "no path");
  return parse_path(path, parent);
}

outcome<parsed_backing> parse_protocol(std::string_view text, const layer_source& parent) {
  const std::string_view scheme = text.substr(0, text.find(':'));
  if (scheme == "json") return backing::parse_json(text.substr(5));
  if (scheme == "file") return parse_file_scheme(text, parent);
  if (scheme == "fat") {
    parsed_backing parsed;
    parsed.source.type = "dir";
    parsed.source.path = text.substr(4);
    parsed.format = "fat";
    return parsed;
  }
  if (text.substr(scheme.size()).starts_with("://")) return backing::parse_uri(text);
  if (scheme == "nbd") return backing::parse_nbd_colon(text);
  if (scheme == "rbd") return backing::parse_rbd_colon(text);
  std::string why("unknown protocol '");
  why.append(scheme).append("'; a file of that name is written './").append(text.substr(0, 256)).append("'");
  return backing::malformed(text, why);
}

}  // namespace

outcome<parsed_backing> parse_backing_string(std::string_view text, const layer_source& parent) {
  if (text.empty()) return backing::malformed("''", "an empty name");
  if (text.size() > max_backing_name_bytes) return backing::malformed(text, "the name is too long");
  if (text.find('\0') != npos)
    return backing::malformed(text.substr(0, text.find('\0')), "the name holds a zero byte");
  outcome<parsed_backing> parsed = is_path(text) ? parse_path(text, parent) : parse_protocol(text, parent);
  // Only what the user says may name a descriptor of this process.
  if (parsed && names_descriptor(parsed->source.path)) parsed->source.path.insert(0, "./");
  return parsed;
}

outcome<layer_source> parse_data_file_name(const std::string& name, const layer_source& image) {
  const std::string location = describe(image);
  if (name.empty())
    return make_failure(errc::corrupt_image, location, "its header does not name its data file");
  const failure refused =
      make_failure(errc::unsupported_feature, location,
                   "its header names '" + name + "' as its data file; only plain file names are used");
  if (name.substr(0, name.find('/')).contains(':')) return refused;
  auto parsed = parse_backing_string(name, image);
  if (!parsed || parsed->source.type != "file" || parsed->incomplete) return refused;
  return std::move(parsed->source);
}

outcome<layer_model> parse_image_name(std::string_view text) {
  layer_model model;
  if (names_descriptor(text)) {
    const std::string_view number = text.substr(3);
    const bool digits = !number.empty() && number.size() < 10 &&
                        std::ranges::all_of(number, [](char c) { return c >= '0' && c <= '9'; });
    if (!digits) return make_failure(errc::unsupported_feature, text, "fd: wants a descriptor's number");
    model.source.path = text;
    return model;
  }
  auto parsed = parse_backing_string(text, layer_source{});
  if (!parsed) return parsed.error();
  const bool is_web = parsed->source.protocol == "http" || parsed->source.protocol == "https";
  if (parsed->incomplete && !is_web) {
    return make_failure(errc::unsupported_feature, describe(parsed->source),
                        "credentials inside a name are not used; leave them out");
  }
  model.source = std::move(parsed->source);
  model.slice = parsed->slice;
  model.format = std::move(parsed->format);
  return model;
}

bool is_relative_name(std::string_view text) noexcept {
  return !text.empty() && is_path(text) && !text.starts_with('/');
}

std::optional<std::string> join_relative(const std::vector<std::string>& names) {
  if (names.empty() || !std::ranges::all_of(names, is_relative_name)) return std::nullopt;
  std::string joined;
  for (const std::string& name : names) {
    joined.resize(directory_of(joined).size());
    joined.append(name);
  }
  return joined;
}

}  // namespace weir
