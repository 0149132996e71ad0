// The sockets of the NBD server: one type for Unix and TCP.
#pragma once

#include "engine/base/task.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/generic/stream_protocol.hpp>

namespace weir::nbd {

using stream_socket = boost::asio::basic_stream_socket<boost::asio::generic::stream_protocol, executor>;

/// As use_task, with the error code as a value.
inline constexpr auto use_tuple_task = boost::asio::as_tuple(use_task);

}  // namespace weir::nbd
