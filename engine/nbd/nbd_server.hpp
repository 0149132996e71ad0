// The NBD server: listeners, connections and the exports they serve. All on one engine's thread.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/buffer_pool.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/base/task_group.hpp"
#include "engine/nbd/connection.hpp"
#include "engine/nbd/export_table.hpp"
#include "engine/nbd/listener.hpp"

#include <boost/asio/posix/basic_stream_descriptor.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

struct nbd_server_settings {
  /// One more evicts the oldest that has not finished its handshake, or is turned away. 0: no limit.
  unsigned most_connections = 100;
  /// Payloads of all clients' requests, in and out; beyond it each client has one request at a time.
  std::uint64_t most_in_flight_bytes = 256 * MiB;
  nbd::connection_settings connection;
  /// Told why a client was refused where that is not said to the client itself. May be empty.
  std::function<void(const failure&)> report = {};
};

class nbd_server {
 public:
  nbd_server(executor context, nbd_server_settings settings);
  /// Precondition: stop() has returned, or nothing was ever listened on.
  ~nbd_server() = default;
  nbd_server(const nbd_server&) = delete;
  nbd_server& operator=(const nbd_server&) = delete;

  /// May change at any time; see remove_export.
  nbd::export_table& exports() noexcept { return exports_; }

  /// Accepts clients there from now on. Add the exports first: they are looked up when a client asks. Blocks
  /// while a TCP host name is resolved.
  outcome<void> listen(const nbd::listen_address& address, nbd::listener_policy policy = {});
  /// Where the server listens, as bound: "unix:/run/a.sock", "tcp:127.0.0.1:10809".
  std::vector<std::string> addresses() const;

  /// Takes the export away and returns once no connection uses its disk any more. False if there is none.
  task<bool> remove_export(std::string name);
  std::size_t connection_count() const noexcept { return connections_.size(); }
  std::size_t connection_count(std::string_view export_name) const;

  /// Stops listening, lets what is in flight finish, refuses the rest and returns when every connection has
  /// ended. Nothing can be listened on afterwards.
  task<void> stop();

 private:
  using acceptor = boost::asio::posix::basic_stream_descriptor<executor>;

  struct door {
    nbd::listener source;
    acceptor waiting;  // on source's descriptor, which it does not own
    nbd::listener_policy policy;
  };

  task<void> accept_from(std::shared_ptr<door> from);
  task<void> pause_accepting();
  void admit(int descriptor, const nbd::listener_policy& policy);
  bool make_room();
  void report_crowd();
  nbd::connection_commons commons() noexcept { return {exports_, buffers_, in_flight_, settings_.report}; }
  task<void> serve(std::shared_ptr<nbd::connection> client);
  void close(door& listening) noexcept;

  executor context_;
  nbd_server_settings settings_;
  nbd::export_table exports_;
  /// Payloads of requests from their parsing until their replies are sent. Not the disk's pool: a lease is
  /// held here across disk operations, and for as long as a peer does not read. Admission bounds what is
  /// lent, so this pool never makes one wait for another.
  buffer_pool buffers_;
  nbd::shared_admission in_flight_;
  std::vector<std::shared_ptr<door>> doors_;
  std::list<std::shared_ptr<nbd::connection>> connections_;  // oldest first
  async_event connection_ended_;
  task_group tasks_;
  bool crowd_reported_ = false;
  bool stopping_ = false;
};

}  // namespace weir
