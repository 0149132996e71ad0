#include "engine/block/network_protocol.hpp"

#include <algorithm>
#include <array>

namespace weir {
namespace {

constexpr std::array protocols{
    network_protocol{.name = "nbd", .default_port = "10809", .needs_host = false},
    network_protocol{
        .name = "rbd", .default_port = "", .needs_host = false, .single_host = false, .name_has_slash = true},
    network_protocol{.name = "iscsi", .default_port = "3260"},
    network_protocol{
        .name = "gluster", .default_port = "24007", .single_host = false, .name_has_slash = true},
    network_protocol{.name = "http", .default_port = "80"},
    network_protocol{.name = "https", .default_port = "443"},
    network_protocol{.name = "ftp", .default_port = "21"},
    network_protocol{.name = "ftps", .default_port = "990"},
    network_protocol{.name = "tftp", .default_port = "69"},
    network_protocol{.name = "ssh", .default_port = "22"},
    network_protocol{.name = "nfs", .default_port = ""},
    network_protocol{.name = "sheepdog", .default_port = "7000", .needs_host = false},
    network_protocol{.name = "vxhs", .default_port = "9999"},
};

}  // namespace

const network_protocol* find_network_protocol(std::string_view name) noexcept {
  const auto found = std::ranges::find(protocols, name, &network_protocol::name);
  return found == protocols.end() ? nullptr : &*found;
}

}  // namespace weir
