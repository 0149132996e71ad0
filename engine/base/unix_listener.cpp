#include "engine/base/unix_listener.hpp"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

namespace weir {
namespace {

constexpr int backlog = 128;

std::optional<sockaddr_un> address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof(address.sun_path)) return std::nullopt;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

int new_socket() {
  return ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

int bind_to(int descriptor, const sockaddr_un& address) {
  return ::bind(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

/// Nobody listens at the socket file.
bool is_stale(const sockaddr_un& address) {
  const int probe = new_socket();
  if (probe < 0) return false;
  const int answer = ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  const bool stale = answer != 0 && errno == ECONNREFUSED;
  ::close(probe);
  return stale;
}

/// Binds, replacing a stale socket file.
outcome<void> bind_or_replace(int descriptor, const sockaddr_un& address, const std::string& path) {
  if (bind_to(descriptor, address) == 0) return {};
  if (errno != EADDRINUSE) return make_failure(errno_code(errno), path);
  struct stat found{};
  if (::lstat(path.c_str(), &found) == 0 && !S_ISSOCK(found.st_mode)) {
    return make_failure(errno_code(EEXIST), path, "exists and is not a socket");
  }
  if (!is_stale(address)) {
    return make_failure(errno_code(EADDRINUSE), path, "address in use: another process listens there");
  }
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return make_failure(errno_code(errno), path);
  if (bind_to(descriptor, address) != 0) return make_failure(errno_code(errno), path);
  return {};
}

}  // namespace

unix_listener::unix_listener(std::string path, int descriptor) noexcept
    : path_(std::move(path)), descriptor_(descriptor) {}

unix_listener::unix_listener(unix_listener&& other) noexcept
    : path_(std::exchange(other.path_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)),
      device_(other.device_),
      inode_(other.inode_) {}

unix_listener& unix_listener::operator=(unix_listener&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(device_, other.device_);
  std::swap(inode_, other.inode_);
  return *this;
}

unix_listener::~unix_listener() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (path_.empty() || inode_ == 0) return;
  struct stat found{};
  const bool ours = ::lstat(path_.c_str(), &found) == 0 && found.st_dev == device_ && found.st_ino == inode_;
  if (ours) ::unlink(path_.c_str());
}

void unix_listener::remember_file() noexcept {
  struct stat bound{};
  if (::lstat(path_.c_str(), &bound) != 0) return;
  device_ = bound.st_dev;
  inode_ = bound.st_ino;
}

outcome<unix_listener> unix_listener::open(const std::string& path) {
  const std::optional<sockaddr_un> address = address_of(path);
  if (!address) return make_failure(errno_code(ENAMETOOLONG), path.empty() ? "socket path" : path);
  unix_listener listener(path, new_socket());
  if (listener.descriptor_ < 0) return make_failure(errno_code(errno), path);
  // On Linux the mode of an unbound socket becomes the mode of its file: it is never open to others.
  ::fchmod(listener.descriptor_, S_IRUSR | S_IWUSR);
  if (auto bound = bind_or_replace(listener.descriptor_, *address, path); bound.has_error())
    return bound.error();
  listener.remember_file();
  if (::listen(listener.descriptor_, backlog) != 0) return make_failure(errno_code(errno), path);
  return listener;
}

}  // namespace weir
