#include "cli/service_manager.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <optional>

namespace weir::cli {
namespace {

constexpr int first_passed_descriptor = 3;
constexpr int most_passed_sockets = 64;

std::optional<long> number_in(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr) return std::nullopt;
  const char* const end = text + std::strlen(text);
  long number = 0;
  const auto [stopped, problem] = std::from_chars(text, end, number);
  if (problem != std::errc{} || stopped != end) return std::nullopt;
  return number;
}

/// Splits "a:b:c"; missing names are empty.
std::vector<std::string> passed_names() {
  std::vector<std::string> names;
  const char* text = std::getenv("LISTEN_FDNAMES");
  std::string_view rest = text == nullptr ? "" : text;
  while (!rest.empty()) {
    const std::size_t colon = rest.find(':');
    names.emplace_back(rest.substr(0, colon));
    rest = colon == std::string_view::npos ? std::string_view{} : rest.substr(colon + 1);
  }
  return names;
}

}  // namespace

std::vector<passed_socket> take_passed_sockets() {
  std::vector<passed_socket> passed;
  const auto count = number_in("LISTEN_FDS");
  if (number_in("LISTEN_PID") == static_cast<long>(::getpid()) && count && *count > 0 &&
      *count <= most_passed_sockets) {
    const std::vector<std::string> names = passed_names();
    for (int at = 0; at < static_cast<int>(*count); ++at) {
      const int descriptor = first_passed_descriptor + at;
      ::fcntl(descriptor, F_SETFD, FD_CLOEXEC);
      const auto index = static_cast<std::size_t>(at);
      passed.push_back({descriptor, index < names.size() ? names[index] : std::string()});
    }
  }
  for (const char* variable : {"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) ::unsetenv(variable);
  return passed;
}

void notify_service_manager(std::string_view state) {
  const char* path = std::getenv("NOTIFY_SOCKET");
  if (path == nullptr) return;
  sockaddr_un address{};
  const std::size_t length = std::strlen(path);
  if (length == 0 || length >= sizeof(address.sun_path)) return;
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path, length);
  // '@' stands for the NUL of the abstract namespace.
  if (address.sun_path[0] == '@') address.sun_path[0] = '\0';
  const int descriptor = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0) return;
  const auto address_length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + length);
  ::sendto(descriptor, state.data(), state.size(), MSG_NOSIGNAL, reinterpret_cast<const sockaddr*>(&address),
           address_length);
  ::close(descriptor);
}

}  // namespace weir::cli
