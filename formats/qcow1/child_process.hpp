// A child process with a stream socket to it and one file handed over. Linux: it is waited for through a pidfd, so
// that the engine's thread never blocks on it.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/file_descriptor.hpp"

#include <boost/asio/basic_stream_socket.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/posix/basic_stream_descriptor.hpp>
#include <sys/types.h>

#include <memory>
#include <span>
#include <string>

namespace weir::qcow1 {

class child_process {
 public:
  /// Starts `path` without arguments and environment: descriptor 3 is the socket, 4 a duplicate of `file`, the first
  /// three /dev/null. Errors: errno values.
  static result<std::unique_ptr<child_process>> start(executor context, const std::string& path, int file);
  /// Kills it if it was not ended with end(); what remains of it is the system's.
  ~child_process();
  child_process(const child_process&) = delete;
  child_process& operator=(const child_process&) = delete;

  /// All of it or an error; EOF (boost::asio::error) where the child has closed its end.
  task<result<void>> send(std::span<const std::byte> data);
  task<result<void>> receive(std::span<std::byte> into);

  /// Hangs up, kills it and waits until it is gone. Returns its wait status.
  task<int> end();

 private:
  using socket = boost::asio::basic_stream_socket<boost::asio::generic::stream_protocol, executor>;
  using descriptor = boost::asio::posix::basic_stream_descriptor<executor>;

  child_process(executor context, int socket_end, pid_t process, int process_descriptor);

  socket socket_;
  pid_t process_;
  descriptor exit_;
};

}  // namespace weir::qcow1
