// A command's side of the control socket of a running `weir serve`: blocking, one request at a time. While one
// exists, SIGINT and SIGTERM do not kill but show up in the waits.
#pragma once

#include "cli/option_set.hpp"
#include "engine/base/error.hpp"
#include "engine/control/json_stream.hpp"

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>

#include <chrono>
#include <csignal>
#include <deque>
#include <memory>
#include <optional>
#include <string>

namespace weir::cli {

class control_connection {
 public:
  using clock = std::chrono::steady_clock;

  /// Connects and negotiates. Failures name the socket.
  static outcome<std::unique_ptr<control_connection>> open(const std::string& path);
  ~control_connection();
  control_connection(const control_connection&) = delete;
  control_connection& operator=(const control_connection&) = delete;

  /// The value returned. Failures: the server's text.
  outcome<boost::json::value> execute(std::string_view command, boost::json::object arguments = {});
  /// The whole reply to a request as the user wrote it.
  outcome<boost::json::object> exchange(boost::json::object request);
  /// The next event, or nothing once it is `until` or the first signal comes.
  outcome<std::optional<boost::json::object>> wait_for_event(clock::time_point until);
  /// SIGINT or SIGTERM has come.
  bool interrupted() const noexcept { return interrupted_; }

 private:
  explicit control_connection(std::string path);
  outcome<void> connect();
  outcome<void> send(std::string_view text);
  /// The next message that is not an event; events are queued.
  outcome<boost::json::object> receive();
  /// Reads what there is, waiting until `until`. False: nothing came.
  outcome<bool> fill(std::optional<clock::time_point> until);
  void note_signal();
  failure lost(int error) const;

  std::string path_;
  int socket_ = -1;
  int signals_ = -1;
  sigset_t mask_before_{};
  bool interrupted_ = false;
  json_stream stream_;
  std::deque<boost::json::object> messages_;
  std::deque<boost::json::object> events_;
};

/// -c SOCK, by default $WEIR_CONTROL.
void declare_control_option(option_set& options);
/// Errors: usage, where neither names a socket.
outcome<std::unique_ptr<control_connection>> connect_as_given(const given_options& given);

/// The disk named, or the only one there is.
outcome<std::string> resolve_disk(control_connection& server, const std::optional<std::string>& named);

/// `--bandwidth`: MiB/s as a plain number, bytes/s with a suffix. Errors: usage.
outcome<std::optional<std::int64_t>> read_bandwidth(const given_options& given);

/// An IMAGE for the server, which may run in another folder: paths are made absolute.
std::string absolute_image_name(const std::string& image);

}  // namespace weir::cli
