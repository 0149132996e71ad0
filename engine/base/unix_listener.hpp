// Listening unix sockets: created with mode 0600; a socket file left behind by a killed process is replaced, a
// live one and anything that is not a socket is refused.
#pragma once

#include "engine/base/error.hpp"

#include <sys/types.h>

#include <string>
#include <utility>

namespace weir {

/// Owns the descriptor until released and removes the socket file (if it is still this one) when destroyed.
class unix_listener {
 public:
  /// Binds and listens. Failures name the path.
  static outcome<unix_listener> open(const std::string& path);

  unix_listener(unix_listener&& other) noexcept;
  unix_listener& operator=(unix_listener&& other) noexcept;
  ~unix_listener();

  const std::string& path() const noexcept { return path_; }
  /// Gives the descriptor away (to an acceptor); the file stays this object's to remove.
  int release() noexcept { return std::exchange(descriptor_, -1); }

 private:
  unix_listener(std::string path, int descriptor) noexcept;
  void remember_file() noexcept;

  std::string path_;
  int descriptor_ = -1;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

}  // namespace weir
