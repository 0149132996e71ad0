#include "engine/nbd/listener.hpp"

#include "engine/storage/file_descriptor.hpp"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <memory>
#include <optional>

namespace weir::nbd {
namespace {

constexpr int backlog = 128;

failure errno_failure(int error, std::string_view subject) {
  if (error == EADDRINUSE) return make_failure(errno_code(error), subject, "address already in use");
  return make_failure(errno_code(error), subject);
}

/// A descriptor from outside must be a listening stream socket.
outcome<void> prepare_inherited(int descriptor) {
  const std::string subject = "fd:" + std::to_string(descriptor);
  int listening = 0;
  int type = 0;
  socklen_t length = sizeof listening;
  const bool known = ::getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &length) == 0 &&
                     ::getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &length) == 0;
  if (!known) return errno_failure(errno, subject);
  if (listening == 0 || type != SOCK_STREAM) {
    return make_failure(errno_code(EINVAL), subject, "not a listening stream socket");
  }
  const int flags = ::fcntl(descriptor, F_GETFL);
  const bool ready = flags >= 0 && ::fcntl(descriptor, F_SETFL, flags | O_NONBLOCK) == 0 &&
                     ::fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0;
  if (!ready) return errno_failure(errno, subject);
  return {};
}

// TCP.

using address_list = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

std::string tcp_name(const sockaddr* address, socklen_t length) {
  std::array<char, NI_MAXHOST> host{};
  std::array<char, NI_MAXSERV> port{};
  const int failed = ::getnameinfo(address, length, host.data(), host.size(), port.data(), port.size(),
                                   NI_NUMERICHOST | NI_NUMERICSERV);
  if (failed != 0) return "tcp:?";
  const bool is_v6 = address->sa_family == AF_INET6;
  const std::string shown = is_v6 ? "[" + std::string(host.data()) + "]" : std::string(host.data());
  return "tcp:" + shown + ":" + port.data();
}

outcome<listener> listen_tcp_one(const addrinfo& resolved) {
  const std::string subject = tcp_name(resolved.ai_addr, resolved.ai_addrlen);
  file_descriptor opened(::socket(resolved.ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (opened.get() < 0) return errno_failure(errno, subject);
  const int on = 1;
  ::setsockopt(opened.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  // Each address has a socket of its own.
  if (resolved.ai_family == AF_INET6) ::setsockopt(opened.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  const bool listens = ::bind(opened.get(), resolved.ai_addr, resolved.ai_addrlen) == 0 &&
                       ::listen(opened.get(), backlog) == 0;
  if (!listens) return errno_failure(errno, subject);
  return listener(opened.release());
}

/// An address that this host lacks (::1 without IPv6) does not count while another one works.
bool is_absent(const failure& why) noexcept {
  return why.code.value() == EAFNOSUPPORT || why.code.value() == EADDRNOTAVAIL;
}

outcome<std::vector<listener>> listen_tcp(const tcp_address& address) {
  const std::string subject = "tcp:" + address.host + ":" + address.port;
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* first = nullptr;
  const char* const host = address.host.empty() ? nullptr : address.host.c_str();
  const int failed = ::getaddrinfo(host, address.port.c_str(), &hints, &first);
  if (failed != 0) return make_failure(errno_code(EADDRNOTAVAIL), subject, ::gai_strerror(failed));
  const address_list resolved(first, &::freeaddrinfo);
  std::vector<listener> all;
  std::optional<failure> absent;
  for (const addrinfo* at = resolved.get(); at != nullptr; at = at->ai_next) {
    outcome<listener> opened = listen_tcp_one(*at);
    if (opened) {
      all.push_back(*std::move(opened));
      // Several sockets would get several free ports.
      if (address.port == "0") break;
    } else if (is_absent(opened.error())) {
      absent = opened.error();
    } else {
      return opened.error();
    }
  }
  if (all.empty()) return absent.value_or(make_failure(errno_code(EADDRNOTAVAIL), subject));
  return all;
}

std::optional<unsigned> parse_number(std::string_view text, unsigned most) noexcept {
  unsigned value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value > most) return std::nullopt;
  return value;
}

std::optional<tcp_address> parse_tcp(std::string_view text) {
  const std::size_t colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  std::string_view host = text.substr(0, colon);
  const std::string_view port = text.substr(colon + 1);
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return std::nullopt;
  }
  if (!parse_number(port, 65535) || host.find('\0') != std::string_view::npos) return std::nullopt;
  return tcp_address{std::string(host), std::string(port)};
}

}  // namespace

outcome<listen_address> parse_listen_address(std::string_view text) {
  const std::string_view kind = text.substr(0, text.find(':'));
  const std::string_view rest = kind.size() < text.size() ? text.substr(kind.size() + 1) : std::string_view{};
  if (kind == "unix" && !rest.empty()) return listen_address{unix_address{std::string(rest)}};
  if (kind == "tcp") {
    if (std::optional<tcp_address> tcp = parse_tcp(rest)) return listen_address{*std::move(tcp)};
  }
  if (kind == "fd") {
    if (const auto number = parse_number(rest, 1U << 20)) {
      return listen_address{descriptor_address{static_cast<int>(*number)}};
    }
  }
  return make_failure(errno_code(EINVAL), "'" + std::string(text) + "'",
                      "not an address; use unix:PATH, tcp:HOST:PORT, tcp:[IPv6]:PORT or fd:N");
}

listener::listener(int descriptor, std::optional<unix_listener> file)
    : descriptor_(descriptor), file_(std::move(file)) {
  if (file_) {
    name_ = "unix:" + file_->path();
    return;
  }
  sockaddr_storage bound{};
  socklen_t length = sizeof bound;
  auto* const address = reinterpret_cast<sockaddr*>(&bound);
  const bool known = ::getsockname(descriptor, address, &length) == 0;
  if (known && (bound.ss_family == AF_INET || bound.ss_family == AF_INET6)) {
    name_ = tcp_name(address, length);
  } else {
    name_ = "fd:" + std::to_string(descriptor);
  }
}

void listener::close() noexcept {
  if (descriptor_ >= 0) ::close(std::exchange(descriptor_, -1));
  file_.reset();
}

outcome<std::vector<listener>> open_listeners(const listen_address& address) {
  if (const auto* const tcp = std::get_if<tcp_address>(&address)) return listen_tcp(*tcp);
  std::vector<listener> all;
  if (const auto* const local = std::get_if<unix_address>(&address)) {
    outcome<unix_listener> opened = unix_listener::open(local->path);
    if (!opened) return opened.error();
    const int descriptor = opened->release();
    all.emplace_back(descriptor, *std::move(opened));
  } else {
    const int descriptor = std::get<descriptor_address>(address).descriptor;
    const outcome<void> checked = prepare_inherited(descriptor);
    if (!checked) return checked.error();
    all.emplace_back(descriptor);
  }
  return all;
}

}  // namespace weir::nbd
