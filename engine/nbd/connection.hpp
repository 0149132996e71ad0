// One client: handshake, then requests until it leaves, misbehaves or the server stops.
//
// run() is the whole life; it alone closes the socket, after everything in flight has ended. One receive takes
// as many requests as have arrived; they run side by side (request_runner) and their replies leave together
// (reply_sender). When admission is full nothing more is read. A deadline guards the two phases in which a
// silent peer would hold something: the handshake, and the end, while the last replies are sent.
//
// With TLS both directions go through a tls_channel once STARTTLS was answered. What a client sent behind STARTTLS
// before the answer came unprotected, from anybody: it ends the connection (CVE-2021-3716).
#pragma once

#include "engine/base/buffer_pool.hpp"
#include "engine/base/error.hpp"
#include "engine/base/timer.hpp"
#include "engine/nbd/admission.hpp"
#include "engine/nbd/export_table.hpp"
#include "engine/nbd/handshake.hpp"
#include "engine/nbd/receive_buffer.hpp"
#include "engine/nbd/reply_sender.hpp"
#include "engine/nbd/request_rules.hpp"
#include "engine/nbd/request_runner.hpp"
#include "engine/nbd/stream.hpp"
#include "engine/nbd/tls_channel.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

namespace weir::nbd {

struct connection_settings {
  std::chrono::milliseconds handshake_timeout{15'000};  ///< 0: no limit
  std::chrono::milliseconds linger_timeout{5'000};      ///< for sending the last replies
  admission_limits limits;
};

/// What the clients of one listener are asked for.
struct listener_policy {
  std::shared_ptr<const tls_credentials> credentials;  ///< null: TLS is refused; otherwise required
  std::shared_ptr<const access_list> access;           ///< null: every client may open every export
};

/// What all connections of a server share.
struct connection_commons {
  const export_table& exports;
  buffer_pool& buffers;
  shared_admission& in_flight;
  const std::function<void(const failure&)>& report;  ///< of clients that were refused; may be empty
};

class connection : public std::enable_shared_from_this<connection> {
 public:
  /// What `commons` refers to outlives the connection.
  connection(stream_socket socket, const connection_commons& commons, connection_settings settings,
             listener_policy policy = {});
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;

  /// Serves until the connection is over; the socket is closed then. Call once.
  task<void> run();

  /// Answers what is in flight, refuses what still arrives, and ends soon: after the linger time-out at the
  /// latest, but for requests that the disk still holds.
  void begin_shutdown();
  /// Ends without further replies, once what is in flight has left the disk.
  void abandon() noexcept;
  bool is_abandoned() const noexcept { return abandoned_; }

  /// The export being served; null during the handshake.
  const export_entry* serves() const noexcept { return entry_.get(); }

 private:
  using receive_target = std::array<boost::asio::mutable_buffer, 2>;

  task<bool> negotiate();
  task<bool> send_answers(std::vector<std::byte>& answers);
  task<bool> secure();
  task<void> serve();
  task<void> take_requests();
  task<bool> take_buffered_requests();
  bool take_at_once(const request& asked, const ruling& rule);
  task<bool> take_request(const request& asked, const ruling& rule);
  task<bool> take_payload(std::span<std::byte> into);
  task<bool> drop_payload(std::size_t length);

  task<bool> receive_more();
  task<std::size_t> receive_into(receive_target target);
  task<std::size_t> receive_secured(std::span<std::byte> into);
  task<bool> wait_for(tls_channel::step next);
  bool receive_rest();
  void set_deadline(std::chrono::milliseconds from_now);
  void clear_deadline();

  stream_socket socket_;
  connection_commons commons_;
  connection_settings settings_;
  listener_policy policy_;
  timer deadline_;
  std::uint64_t deadline_number_ = 0;
  receive_buffer received_;
  std::unique_ptr<tls_channel> tls_;  // once STARTTLS was answered
  handshake handshake_;
  std::shared_ptr<const export_entry> entry_;
  admission admitted_;
  reply_sender replies_;
  std::optional<request_runner> runner_;
  bool shutting_down_ = false;
  bool abandoned_ = false;
};

}  // namespace weir::nbd
