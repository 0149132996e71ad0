// Which object on which web server to read, and how patient to be with it. Plain values.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace weir {

struct http_target {
  std::string location;      ///< as shown to people: the URL without what is secret
  std::string url;           ///< http:// or https://, without user and password
  std::string user;          ///< for basic authentication; empty: none
  std::string password;      ///< never shown
  std::string cookies;       ///< the Cookie header's value, "a=b; c=d"; never shown
  bool verify_peer = true;   ///< of https: the server's certificate and name are verified
  std::string ca_directory;  ///< ca-cert.pem, and client-cert.pem with client-key.pem; empty: the system's
};

struct http_client_settings {
  /// Transfers side by side, each on a connection of its own.
  unsigned connections = 8;
  std::chrono::milliseconds connect_timeout{10'000};
  /// A transfer that brings next to nothing for so long counts as lost.
  std::chrono::milliseconds stall_timeout{30'000};
  /// Reads wait so long for a lost server to come back before they fail.
  std::chrono::milliseconds reconnect_limit{60'000};
  /// Most that is read ahead of a reader in sequence; 0: nothing.
  std::uint64_t read_ahead_bytes = std::uint64_t{1} << 20;
};

}  // namespace weir
