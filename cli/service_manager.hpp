// What systemd hands a service and wants to hear (sd_notify(3), sd_listen_fds(3)), without its library.
#pragma once

#include "engine/base/error.hpp"

#include <string>
#include <string_view>
#include <vector>

namespace weir::cli {

struct passed_socket {
  int descriptor = -1;
  std::string name;  ///< from LISTEN_FDNAMES; empty if unnamed
};

/// The listening sockets passed to this process, made close-on-exec. The environment is cleared of them.
std::vector<passed_socket> take_passed_sockets();

/// Sends `state` ("READY=1") to the service manager, if there is one; failures do not matter to a service.
void notify_service_manager(std::string_view state);

}  // namespace weir::cli
