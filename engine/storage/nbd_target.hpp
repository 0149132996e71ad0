// Which NBD export to use, and how patient to be with its server. Plain values.
#pragma once

#include <chrono>
#include <string>

namespace weir {

struct nbd_target {
  std::string location;     ///< as shown to people: the URI
  std::string export_name;  ///< any bytes, may be empty
  std::string socket_path;  ///< a unix socket; empty: TCP to host and port
  std::string host;
  std::string port;  ///< decimal
  bool tls = false;  ///< required, never merely tried; the server's name and certificate are verified
  /// ca-cert.pem, and client-cert.pem with client-key.pem; or keys.psk without ca-cert.pem. Empty: the system's.
  std::string tls_directory;
};

struct nbd_client_settings {
  /// Connections where the server allows several (CAN_MULTI_CONN).
  unsigned connections = 4;
  /// For connecting and negotiating, each time.
  std::chrono::milliseconds connect_timeout{10'000};
  /// A connection that answers nothing for so long while requests wait counts as lost.
  std::chrono::milliseconds stall_timeout{30'000};
  /// That many times the stall_timeout while writes, zeroes or trims wait: see nbd_storage.hpp on what is sent twice.
  unsigned stalls_of_a_change = 4;
  /// Requests wait so long for a lost server to come back before they fail.
  std::chrono::milliseconds reconnect_limit{60'000};
};

}  // namespace weir
