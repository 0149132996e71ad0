#include "engine/nbd/nbd_server.hpp"

#include "engine/base/timer.hpp"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <limits>
#include <utility>

namespace weir {
namespace {

/// A quarter less CPU time on Unix sockets than with the default.
constexpr int unix_socket_buffer_bytes = 2 << 20;
constexpr std::chrono::milliseconds accept_pause{200};
/// A host that has vanished is noticed within two minutes; one that only sends nothing is left alone.
constexpr int keepalive_idle_s = 60;
constexpr int keepalive_interval_s = 10;
constexpr int keepalive_probes = 6;

int family_of(int descriptor) noexcept {
  int family = AF_UNSPEC;
  socklen_t length = sizeof family;
  ::getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &family, &length);
  return family;
}

void tune(int descriptor, int family) noexcept {
  const int on = 1;
  if (family == AF_UNIX) {
    const int bytes = unix_socket_buffer_bytes;
    // Beyond the system's limit where permitted, up to it otherwise.
    if (::setsockopt(descriptor, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes) != 0) {
      ::setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    }
    if (::setsockopt(descriptor, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof bytes) != 0) {
      ::setsockopt(descriptor, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
    }
  } else {
    ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    ::setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    ::setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, &keepalive_idle_s, sizeof keepalive_idle_s);
    ::setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, &keepalive_interval_s, sizeof keepalive_interval_s);
    ::setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPCNT, &keepalive_probes, sizeof keepalive_probes);
  }
}

/// True for errors of the one client that was about to connect; others (EMFILE) come again at once.
bool concerns_one_client(int error) noexcept {
  return error == ECONNABORTED || error == EINTR || error == EPROTO || error == EPERM;
}

}  // namespace

nbd_server::nbd_server(executor context, nbd_server_settings settings)
    : context_(context),
      settings_(std::move(settings)),
      buffers_(context, std::numeric_limits<std::size_t>::max()),
      in_flight_(context, settings_.most_in_flight_bytes),
      connection_ended_(context),
      tasks_(context) {}

outcome<void> nbd_server::listen(const nbd::listen_address& address, nbd::listener_policy policy) {
  outcome<std::vector<nbd::listener>> opened = nbd::open_listeners(address);
  if (!opened) return opened.error();
  for (nbd::listener& source : *opened) {
    const int descriptor = source.descriptor();
    const auto opened_door =
        std::make_shared<door>(door{std::move(source), acceptor(context_, descriptor), policy});
    doors_.push_back(opened_door);
    tasks_.spawn(accept_from(opened_door));
  }
  return {};
}

std::vector<std::string> nbd_server::addresses() const {
  std::vector<std::string> names;
  names.reserve(doors_.size());
  for (const auto& at : doors_) names.push_back(at->source.name());
  return names;
}

std::size_t nbd_server::connection_count(std::string_view export_name) const {
  return static_cast<std::size_t>(std::ranges::count_if(connections_, [&](const auto& client) {
    return client->serves() != nullptr && client->serves()->name == export_name;
  }));
}

task<bool> nbd_server::remove_export(std::string name) {
  const std::shared_ptr<const nbd::export_entry> removed = exports_.remove(name);
  if (!removed) co_return false;
  const auto uses_it = [&](const auto& client) { return client->serves() == removed.get(); };
  for (const auto& client : connections_) {
    if (uses_it(client)) client->begin_shutdown();
  }
  while (std::ranges::any_of(connections_, uses_it)) co_await connection_ended_.wait();
  co_return true;
}

task<void> nbd_server::stop() {
  stopping_ = true;
  for (const auto& listening : doors_) close(*listening);
  for (const auto& client : connections_) client->begin_shutdown();
  co_await tasks_.join();
  doors_.clear();
}

void nbd_server::close(door& listening) noexcept {
  error_code ignored;
  listening.waiting.cancel(ignored);
  if (listening.waiting.is_open()) listening.waiting.release();
  listening.source.close();
}

task<void> nbd_server::accept_from(std::shared_ptr<door> from) {
  while (!stopping_) {
    const auto [error] = co_await from->waiting.async_wait(acceptor::wait_read, nbd::use_tuple_task);
    if (error || stopping_) co_return;
    for (;;) {
      const int accepted =
          ::accept4(from->source.descriptor(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
      if (accepted >= 0) {
        admit(accepted, from->policy);
      } else if (errno == EAGAIN) {
        break;
      } else if (!concerns_one_client(errno)) {
        co_await pause_accepting();
        break;
      }
    }
  }
}

// Out of descriptors or memory: the waiting client stays in the backlog and would wake the loop at once.
task<void> nbd_server::pause_accepting() {
  timer pause(context_);
  pause.expires_after(accept_pause);
  co_await pause.async_wait(nbd::use_tuple_task);
}

void nbd_server::admit(int descriptor, const nbd::listener_policy& policy) {
  if (!make_room()) {
    ::close(descriptor);
    return;
  }
  const int family = family_of(descriptor);
  tune(descriptor, family);
  nbd::stream_socket socket(context_, boost::asio::generic::stream_protocol(family, 0), descriptor);
  const auto client =
      std::make_shared<nbd::connection>(std::move(socket), commons(), settings_.connection, policy);
  connections_.push_back(client);
  tasks_.spawn(serve(client));
}

bool nbd_server::make_room() {
  if (settings_.most_connections == 0 || connections_.size() < settings_.most_connections) return true;
  report_crowd();
  const auto idle = std::ranges::find_if(connections_, [](const auto& client) {
    return client->serves() == nullptr && !client->is_abandoned();
  });
  if (idle == connections_.end()) return false;
  (*idle)->abandon();
  return true;
}

/// Once: who floods a server with clients must not flood its log as well.
void nbd_server::report_crowd() {
  if (crowd_reported_ || !settings_.report) return;
  crowd_reported_ = true;
  settings_.report(
      failure{errc::not_supported,
              "NBD: " + std::to_string(settings_.most_connections) +
                  " clients are connected, which is the limit: others take the place of one that "
                  "has not chosen an export, or are turned away"});
}

task<void> nbd_server::serve(std::shared_ptr<nbd::connection> client) {
  co_await client->run();
  std::erase(connections_, client);
  connection_ended_.notify_all();
}

}  // namespace weir
