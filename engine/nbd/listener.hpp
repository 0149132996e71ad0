// Listening sockets: where a server waits for clients.
//
// Unix sockets follow the rules of engine/base/unix_listener.hpp: mode 0600, a stale file is replaced, a live
// one is refused.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/unix_listener.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace weir::nbd {

struct unix_address {
  std::string path;
  friend bool operator==(const unix_address&, const unix_address&) = default;
};
struct tcp_address {
  std::string host;  ///< a name or number, IPv6 without brackets; empty: every address
  std::string port;  ///< decimal; "0": any free one
  friend bool operator==(const tcp_address&, const tcp_address&) = default;
};
/// A descriptor that listens already (socket activation).
struct descriptor_address {
  int descriptor = -1;
  friend bool operator==(const descriptor_address&, const descriptor_address&) = default;
};
using listen_address = std::variant<unix_address, tcp_address, descriptor_address>;

/// Reads "unix:PATH", "tcp:HOST:PORT" ("tcp:[::1]:10809" for IPv6) or "fd:N".
outcome<listen_address> parse_listen_address(std::string_view text);

/// Owns a non-blocking listening descriptor and, for a Unix socket that it made, the file.
class listener {
 public:
  /// Takes over a descriptor that listens.
  explicit listener(int descriptor, std::optional<unix_listener> file = std::nullopt);
  listener(listener&& other) noexcept
      : descriptor_(std::exchange(other.descriptor_, -1)),
        file_(std::exchange(other.file_, std::nullopt)),
        name_(std::move(other.name_)) {}
  listener& operator=(listener&&) = delete;
  ~listener() { close(); }

  int descriptor() const noexcept { return descriptor_; }
  /// As bound: "unix:/run/a.sock", "tcp:127.0.0.1:10809".
  const std::string& name() const noexcept { return name_; }

  /// Stops listening and removes the file. Idempotent.
  void close() noexcept;

 private:
  int descriptor_;
  std::optional<unix_listener> file_;
  std::string name_;
};

/// Opens the listening sockets; a TCP host name may stand for several addresses. Names are resolved by a
/// blocking call. The failure names the address.
outcome<std::vector<listener>> open_listeners(const listen_address& address);

}  // namespace weir::nbd
