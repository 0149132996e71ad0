#include "cli/control_connection.hpp"

#include "engine/base/range.hpp"
#include "engine/base/size_text.hpp"

#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t read_bytes = 64 * 1024;

int milliseconds_until(std::optional<control_connection::clock::time_point> until) {
  if (!until) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(*until - control_connection::clock::now());
  return static_cast<int>(std::clamp<std::int64_t>(left.count(), 0, std::numeric_limits<int>::max()));
}

}  // namespace

control_connection::control_connection(std::string path) : path_(std::move(path)) {
  sigset_t watched;
  sigemptyset(&watched);
  sigaddset(&watched, SIGINT);
  sigaddset(&watched, SIGTERM);
  sigprocmask(SIG_BLOCK, &watched, &mask_before_);
  signals_ = ::signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
}

control_connection::~control_connection() {
  if (socket_ >= 0) ::close(socket_);
  if (signals_ >= 0) ::close(signals_);
  sigprocmask(SIG_SETMASK, &mask_before_, nullptr);
}

failure control_connection::lost(int error) const {
  if (error == 0) return make_failure(errno_code(ECONNRESET), path_, "the server closed the connection");
  return make_failure(errno_code(error), path_);
}

outcome<std::unique_ptr<control_connection>> control_connection::open(const std::string& path) {
  std::unique_ptr<control_connection> opened(new control_connection(path));
  if (auto connected = opened->connect(); connected.has_error()) return connected.error();
  const auto greeting = opened->receive();
  if (greeting.has_error()) return greeting.error();
  if (!greeting->contains("QMP")) return make_failure(errc::unsupported_feature, path, "does not speak QMP");
  const auto ready = opened->execute("qmp_capabilities");
  if (ready.has_error()) return ready.error();
  return opened;
}

outcome<void> control_connection::connect() {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path_.size() >= sizeof(address.sun_path)) return make_failure(errno_code(ENAMETOOLONG), path_);
  std::memcpy(address.sun_path, path_.data(), path_.size());
  socket_ = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (socket_ < 0) return lost(errno);
  if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int error = errno;
    if (error != ENOENT && error != ECONNREFUSED) return lost(error);
    return make_failure(
        errno_code(error), path_,
        std::string(std::strerror(error)) + "; is weir serve running with --control " + path_ + "?");
  }
  return {};
}

outcome<void> control_connection::send(std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(socket_, text.data(), text.size(), MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return lost(errno);
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
  return {};
}

void control_connection::note_signal() {
  signalfd_siginfo info;
  if (::read(signals_, &info, sizeof(info)) != static_cast<ssize_t>(sizeof(info))) return;
  interrupted_ = true;
  // The second one kills: a server may never answer.
  ::pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
}

outcome<bool> control_connection::fill(std::optional<clock::time_point> until) {
  std::array<pollfd, 2> watched{pollfd{socket_, POLLIN, 0}, pollfd{signals_, POLLIN, 0}};
  const int ready = ::poll(watched.data(), watched.size(), milliseconds_until(until));
  if (ready < 0 && errno != EINTR) return lost(errno);
  if (ready <= 0) return false;
  if (watched[1].revents != 0) note_signal();
  if (watched[0].revents == 0) return false;
  std::array<char, read_bytes> buffer;
  const ssize_t length = ::recv(socket_, buffer.data(), buffer.size(), 0);
  if (length < 0 && errno == EINTR) return false;
  if (length <= 0) return lost(length < 0 ? errno : 0);
  for (json_stream::item& item : stream_.feed({buffer.data(), static_cast<std::size_t>(length)})) {
    if (!item.value || !item.value->is_object()) {
      return make_failure(errc::unsupported_feature, path_, "does not speak QMP");
    }
    json::object& message = item.value->get_object();
    (message.contains("event") ? events_ : messages_).push_back(std::move(message));
  }
  return true;
}

outcome<json::object> control_connection::receive() {
  while (messages_.empty()) {
    if (auto filled = fill(std::nullopt); filled.has_error()) return filled.error();
  }
  json::object message = std::move(messages_.front());
  messages_.pop_front();
  return message;
}

outcome<json::object> control_connection::exchange(json::object request) {
  if (auto sent = send(json::serialize(request) + "\n"); sent.has_error()) return sent.error();
  return receive();
}

outcome<json::value> control_connection::execute(std::string_view command, json::object arguments) {
  json::object request{{"execute", command}};
  if (!arguments.empty()) request["arguments"] = std::move(arguments);
  auto reply = exchange(std::move(request));
  if (reply.has_error()) return reply.error();
  if (const json::value* returned = reply->if_contains("return")) return *returned;
  const json::value* error = reply->if_contains("error");
  const json::value* text =
      error != nullptr && error->is_object() ? error->get_object().if_contains("desc") : nullptr;
  if (text == nullptr || !text->is_string()) {
    return make_failure(errc::unsupported_feature, path_, "does not speak QMP");
  }
  return failure{errc::not_supported, std::string(text->get_string())};
}

outcome<std::optional<json::object>> control_connection::wait_for_event(clock::time_point until) {
  while (events_.empty()) {
    if (clock::now() >= until) return std::optional<json::object>();
    const bool interrupted_before = interrupted_;
    if (auto filled = fill(until); filled.has_error()) return filled.error();
    if (interrupted_ && !interrupted_before) return std::optional<json::object>();
  }
  std::optional<json::object> event(std::move(events_.front()));
  events_.pop_front();
  return event;
}

void declare_control_option(option_set& options) {
  options.value("control,c", "SOCK", "Control socket of the running weir serve; by default $WEIR_CONTROL.");
}

outcome<std::unique_ptr<control_connection>> connect_as_given(const given_options& given) {
  std::optional<std::string> path = given.value("control");
  if (const char* usual = std::getenv("WEIR_CONTROL"); !path && usual != nullptr) path = usual;
  if (!path || path->empty()) return usage_failure("no control socket: give -c SOCK or set WEIR_CONTROL");
  return control_connection::open(*path);
}

outcome<std::string> resolve_disk(control_connection& server, const std::optional<std::string>& named) {
  const auto listed = server.execute("weir-domblklist");
  if (listed.has_error()) return listed.error();
  std::string names;
  const json::array& disks = listed->as_array();
  for (const json::value& each : disks) {
    const std::string name(each.at("target").as_string());
    if (named && name == *named) return name;
    names += " " + name;
  }
  if (named) return failure{errc::out_of_range, "unknown disk '" + *named + "' (served:" + names + ")"};
  if (disks.size() == 1) return std::string(disks.front().at("target").as_string());
  return usage_failure("which disk? (served:" + names + ")");
}

outcome<std::optional<std::int64_t>> read_bandwidth(const given_options& given) {
  const auto text = given.value("bandwidth");
  if (!text) return std::optional<std::int64_t>{};
  const auto plain = parse_number(*text);
  const auto bytes = plain ? checked_multiply(*plain, MiB) : parse_size(*text);
  if (!bytes || *bytes > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    return usage_failure("bandwidth: '" + *text +
                         "' is neither MiB/s as a number nor bytes/s with K, M, G or T");
  }
  return std::optional(static_cast<std::int64_t>(*bytes));
}

std::string absolute_image_name(const std::string& image) {
  const bool is_path = !image.starts_with("json:") && !image.starts_with("fd:") && !image.contains("://");
  return is_path ? std::filesystem::absolute(image).string() : image;
}

}  // namespace weir::cli
