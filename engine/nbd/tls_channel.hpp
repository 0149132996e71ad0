// The server's end of TLS on one connected, non-blocking socket. It never waits: every step says what to wait for.
//
//   shake_hands until done → receive and send, each on its own, until one fails or the peer ends
//
// The socket is used directly, so that the kernel may take the encryption over. The process must ignore SIGPIPE.
#pragma once

#include "engine/nbd/tls_credentials.hpp"

#include <cstddef>
#include <memory>
#include <span>
#include <string>

struct ssl_st;

namespace weir::nbd {

class tls_channel {
 public:
  enum class step : std::uint8_t { done, want_read, want_write, failed };
  struct moved {
    step next = step::failed;
    std::size_t length = 0;  ///< with done: > 0
  };

  /// `descriptor` outlives the channel.
  tls_channel(std::shared_ptr<const tls_credentials> credentials, int descriptor);
  ~tls_channel();
  tls_channel(const tls_channel&) = delete;
  tls_channel& operator=(const tls_channel&) = delete;

  step shake_hands();
  /// Once hands were shaken: who the client proved to be, a name with neither NUL nor anything unprintable in it. Empty
  /// if its certificate has no such name.
  std::string identity() const;
  /// Why shake_hands() failed.
  const std::string& why() const noexcept { return why_; }

  /// Failed at the peer's end, too. Precondition: room.
  moved receive(std::span<std::byte> into);
  /// Takes a prefix of `from`. After want_write the next call must offer the same bytes again, from anywhere.
  moved send(std::span<const std::byte> from);
  /// Tells the peer that nothing follows, if that needs no waiting.
  void say_goodbye() noexcept;

 private:
  step step_of(int returned);

  std::shared_ptr<const tls_credentials> credentials_;
  ssl_st* session_;
  std::string key_name_;  // of the last pre-shared key that was looked up and found
  std::string why_;
  bool failed_ = false;
};

}  // namespace weir::nbd
