#include "engine/block/model.hpp"

#include "engine/block/backing_name.hpp"

#include <algorithm>
#include <charconv>
#include <set>

namespace weir {
namespace {

bool plain_in_uri(char c) noexcept {
  const bool alphanumeric = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
  return alphanumeric || std::string_view("-._~/:@!$'()*,;=").find(c) != std::string_view::npos;
}

void append_escaped(std::string& uri, std::string_view text) {
  constexpr std::string_view digits = "0123456789ABCDEF";
  for (const char c : text) {
    if (plain_in_uri(c)) {
      uri.push_back(c);
    } else {
      const auto value = static_cast<unsigned char>(c);
      uri.append({'%', digits[value >> 4U], digits[value & 15U]});
    }
  }
}

std::string authority(const network_host& host) {
  const bool bare_v6 = host.name.find(':') != std::string::npos && !host.name.starts_with('[');
  std::string text = bare_v6 ? "[" + host.name + "]" : host.name;
  if (!host.port.empty()) text.append(":").append(host.port);
  return text;
}

std::string describe_network(const layer_source& source) {
  if (source.protocol == "rbd") {
    std::string text = "rbd:" + source.name;
    for (const auto& [key, value] : source.details) {
      if (key == "snapshot") text.append("@").append(value);
    }
    return text;
  }
  std::string uri = source.protocol;
  if (source.tls) uri.push_back('s');
  const network_host host = source.hosts.empty() ? network_host{} : source.hosts.front();
  if (!host.transport.empty() && host.transport != "tcp") uri.append("+").append(host.transport);
  uri.append("://").append(authority(host)).push_back('/');
  append_escaped(uri, source.name);
  std::string query = source.query;
  if (!host.socket.empty()) append_escaped(query.append("socket="), host.socket);
  if (!query.empty()) uri.append("?").append(query);
  return uri;
}

std::string describe_details(const layer_source& source) {
  std::string text = source.type;
  for (const auto& [key, value] : source.details) text.append(" ").append(key).append("=").append(value);
  return text;
}

/// Indexes that a mirror's layers may share with the disk: an active commit copies into a layer of the disk.
std::set<unsigned> shared_indexes(const disk_model& disk) {
  std::set<unsigned> shared;
  if (!disk.mirror || disk.mirror->job != "active-commit") return shared;
  for (const layer_model& layer : disk.layers) {
    if (layer.index) shared.insert(*layer.index);
  }
  return shared;
}

class numbering {
 public:
  explicit numbering(unsigned next) : next_(next) {}

  void reserve(const std::vector<layer_model>& layers) {
    for (const layer_model& layer : layers) {
      if (layer.index && *layer.index != 0) next_ = std::max(next_, *layer.index + 1);
    }
  }

  void give(layer_model& layer, const std::set<unsigned>& may_share) {
    const unsigned index = layer.index.value_or(0);
    if (index != 0 && (used_.insert(index).second || may_share.contains(index))) return;
    layer.index = next_++;
    layer.index_invented = true;
    used_.insert(*layer.index);
  }

  unsigned next() const noexcept { return next_; }

 private:
  unsigned next_;
  std::set<unsigned> used_;
};

/// N of "TARGET[N]".
std::optional<unsigned> index_of(const disk_model& disk, std::string_view spec) {
  if (disk.target.empty() || !spec.starts_with(disk.target)) return std::nullopt;
  spec.remove_prefix(disk.target.size());
  if (!spec.starts_with('[') || !spec.ends_with(']')) return std::nullopt;
  spec = spec.substr(1, spec.size() - 2);
  unsigned index = 0;
  const auto [end, error] = std::from_chars(spec.data(), spec.data() + spec.size(), index);
  if (error != std::errc{} || end != spec.data() + spec.size() || index == 0) return std::nullopt;
  return index;
}

/// `spec` is a path that, from the directory of the layer above, is this layer's.
bool resolves_to(const layer_model& overlay, const layer_model& layer, std::string_view spec) {
  if (!is_relative_name(spec)) return false;
  const auto parsed = parse_backing_string(spec, overlay.source);
  return parsed && parsed->source.path == layer.source.path && parsed->source.type == "file" &&
         parsed->source.protocol == layer.source.protocol;
}

}  // namespace

std::string describe(const layer_source& source) {
  if (source.type == "network") return describe_network(source);
  if (!source.path.empty()) return source.path;
  if (!source.fd_group.empty()) return "fd:" + source.fd_group;
  return describe_details(source);
}

unsigned number_layers(disk_model& disk, unsigned next) {
  numbering numbers(std::max(next, 1U));
  numbers.reserve(disk.layers);
  if (disk.mirror) numbers.reserve(disk.mirror->layers);
  for (layer_model& layer : disk.layers) numbers.give(layer, {});
  if (disk.mirror) {
    const std::set<unsigned> shared = shared_indexes(disk);
    for (layer_model& layer : disk.mirror->layers) numbers.give(layer, shared);
  }
  return numbers.next();
}

std::optional<std::size_t> find_layer(const disk_model& disk, std::string_view spec) {
  if (spec.empty() || disk.layers.empty()) return std::nullopt;
  if (spec == disk.target) return 0;
  const std::vector<layer_model>& layers = disk.layers;
  if (const std::optional<unsigned> index = index_of(disk, spec)) {
    const auto found = std::ranges::find(layers, index, &layer_model::index);
    if (found == layers.end()) return std::nullopt;
    return static_cast<std::size_t>(found - layers.begin());
  }
  for (std::size_t depth = 0; depth < layers.size(); ++depth) {
    if (describe(layers[depth].source) == spec) return depth;
  }
  for (std::size_t depth = 1; depth < layers.size(); ++depth) {
    if (layers[depth].recorded_name == spec || resolves_to(layers[depth - 1], layers[depth], spec))
      return depth;
  }
  return std::nullopt;
}

}  // namespace weir
