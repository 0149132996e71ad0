// Sends the replies of one connection, as many as are ready with each system call.
//
// Requests queue parts as they complete; one task drains the queue. It is woken by a posted function, so it
// runs behind everything that completed in the same turn and finds those replies queued, too. Once much is queued it
// is sent at once, while the bytes are in the processor's cache and before more buffers are filled; the task sends what
// the socket did not take. Bodies are sent from the buffers they were read into, or by the kernel from a file.
#pragma once

#include "engine/nbd/admission.hpp"
#include "engine/nbd/reply_part.hpp"
#include "engine/nbd/stream.hpp"
#include "engine/nbd/tls_channel.hpp"

#include <sys/uio.h>

#include <cstddef>
#include <functional>
#include <span>
#include <vector>

namespace weir::nbd {

class reply_sender {
 public:
  /// Both outlive the sender.
  reply_sender(stream_socket& socket, admission& admitted) : socket_(socket), admitted_(admitted) {}
  reply_sender(const reply_sender&) = delete;
  reply_sender& operator=(const reply_sender&) = delete;

  /// From now on replies leave through `channel`, which outlives the sender.
  void encrypt(tls_channel& channel) noexcept { tls_ = &channel; }

  /// Whether parts may have file pieces: what is encrypted has to be read.
  bool sends_files() const noexcept { return tls_ == nullptr; }

  /// Never waits. After an error on the socket the part is dropped.
  void queue(reply_part part);

  /// Sends until finish() was called and nothing is queued. After an error on the socket it shuts the socket
  /// down, so that its reader ends, and drops what is queued.
  task<void> run();
  void finish();

  bool is_broken() const noexcept { return broken_; }

 private:
  task<void> send_batch();
  void send_at_once();
  /// Takes what is queued as the next batch. Precondition: there is none.
  void begin_batch() noexcept;
  void end_batch() noexcept;
  /// One system call; returns 0 or an errno value.
  int send_some();
  int send_secured();
  /// Precondition: the head of the next part is gone.
  int send_file();
  std::span<const std::byte> next_to_encrypt();
  std::size_t gather(std::span<iovec> into) const noexcept;
  void advance(std::size_t sent);
  void retire(reply_part& part);
  void break_off();
  void wake();

  stream_socket& socket_;
  admission& admitted_;
  std::vector<reply_part> queued_;
  std::size_t queued_bytes_ = 0;
  unsigned sent_in_a_row_ = 0;     // batches sent at once since the task ran
  std::vector<reply_part> batch_;  // being sent: [next_, size), the first sent_of_next_ bytes are gone
  std::size_t next_ = 0;
  std::size_t sent_of_next_ = 0;
  resumption parked_;
  tls_channel* tls_ = nullptr;
  std::vector<std::byte> joined_;  // small pieces that share a TLS record
  bool finishing_ = false;
  bool broken_ = false;
};

}  // namespace weir::nbd
