// One client of the control socket: reads requests, runs them one after the other, writes replies and events.
//
// A client that does not read costs a constant: its requests wait while much output is unread, and it is
// disconnected once the events alone exceed a limit.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/task.hpp"
#include "engine/control/engine_control.hpp"
#include "engine/control/qmp_session.hpp"

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/local/stream_protocol.hpp>

#include <cstddef>
#include <string>
#include <string_view>

namespace weir {

class control_client {
 public:
  using socket = boost::asio::basic_stream_socket<boost::asio::local::stream_protocol, executor>;

  /// Unread output above which no further request is looked at, and above which the client is dropped.
  static constexpr std::size_t pause_bytes = std::size_t{1} << 20;
  static constexpr std::size_t drop_bytes = std::size_t{4} << 20;

  control_client(socket connected, engine_control& engine);
  control_client(const control_client&) = delete;
  control_client& operator=(const control_client&) = delete;

  /// Serves until the client hangs up or close() is called. The object must live until then.
  task<void> run();
  /// Sends an event's line if the client has negotiated.
  void send_event(std::string_view line);
  /// Hands over what fits the socket without waiting, then disconnects.
  void close();

 private:
  task<void> read_requests();
  task<void> write_output();
  task<void> answer(qmp_request request);
  task<void> execute(qmp_request request);
  void send(std::string_view line);
  void disconnect() noexcept;
  std::size_t unread_bytes() const noexcept { return pending_.size() + writing_.size(); }

  socket socket_;
  engine_control& engine_;
  qmp_session session_;
  std::string pending_;  // not yet given to the socket
  std::string writing_;  // being written
  async_event output_changed_;
  bool closed_ = false;
};

}  // namespace weir
