// The network protocols a layer's source may name, as libvirt lists them. A table of facts; weir opens few of them.
#pragma once

#include <string_view>

namespace weir {

struct network_protocol {
  std::string_view name;
  std::string_view default_port;  ///< empty: none
  bool needs_host = true;         ///< a description without a server is refused
  bool single_host = true;
  bool name_has_slash = false;  ///< the name is VOLUME/PATH
};

/// The protocol called `name`, or null.
const network_protocol* find_network_protocol(std::string_view name) noexcept;

}  // namespace weir
