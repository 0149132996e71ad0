// One client: handshake, then requests until it leaves, misbehaves or the server stops.
//
// run() is the whole life; it alone closes the socket, after everything in flight has ended. One receive takes
// as many requests as have arrived; they run side by side (request_runner) and their replies leave together
// (reply_sender). When admission is full nothing more is read. A deadline guards the two phases in which a
// silent peer would hold something: the handshake, and the end, while the last replies are sent.
#pragma once

#include "engine/base/buffer_pool.hpp"
#include "engine/nbd/admission.hpp"
#include "engine/nbd/export_table.hpp"
#include "engine/nbd/handshake.hpp"
#include "engine/nbd/receive_buffer.hpp"
#include "engine/nbd/reply_sender.hpp"
#include "engine/nbd/request_rules.hpp"
#include "engine/nbd/request_runner.hpp"
#include "engine/nbd/stream.hpp"

#include <boost/asio/basic_waitable_timer.hpp>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

namespace weir::nbd {

struct connection_settings {
  std::chrono::milliseconds handshake_timeout{15'000};
  std::chrono::milliseconds linger_timeout{5'000};  ///< for sending the last replies
  admission_limits limits;
};

class connection : public std::enable_shared_from_this<connection> {
 public:
  /// `exports` and `buffers` outlive the connection.
  connection(stream_socket socket, const export_table& exports, buffer_pool& buffers,
             connection_settings settings);
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
  using timer =
      boost::asio::basic_waitable_timer<std::chrono::steady_clock,
                                        boost::asio::wait_traits<std::chrono::steady_clock>, executor>;
  using receive_target = std::array<boost::asio::mutable_buffer, 2>;

  task<bool> negotiate();
  task<void> serve();
  task<void> take_requests();
  task<bool> take_buffered_requests();
  task<bool> take_request(const request& asked, const ruling& rule);
  task<bool> take_payload(std::span<std::byte> into);
  task<bool> drop_payload(std::size_t length);

  task<bool> receive_more();
  task<std::size_t> receive_into(receive_target target);
  bool receive_rest();
  void set_deadline(std::chrono::milliseconds from_now);
  void clear_deadline();

  stream_socket socket_;
  const export_table& exports_;
  buffer_pool& buffers_;
  connection_settings settings_;
  timer deadline_;
  std::uint64_t deadline_number_ = 0;
  receive_buffer received_;
  handshake handshake_;
  std::shared_ptr<const export_entry> entry_;
  admission admitted_;
  reply_sender replies_;
  std::optional<request_runner> runner_;
  bool shutting_down_ = false;
  bool abandoned_ = false;
};

}  // namespace weir::nbd
