#include "engine/nbd/reply_sender.hpp"

#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <utility>

namespace weir::nbd {
namespace {

constexpr std::size_t pieces_per_call = 256;
/// Payload of a TLS record.
constexpr std::size_t record_bytes = 16 * KiB;
/// So much is worth a system call of its own.
constexpr std::size_t send_at_once_bytes = 256 * KiB;
/// Then the task's turn comes, so that admission fills up and others run, however much a client asks for.
constexpr unsigned most_sent_in_a_row = 16;
/// Room for the replies to a deep queue: without it the sender waits for its peer in the middle of a batch.
constexpr int socket_buffer_bytes = 2 << 20;

/// TCP finds the size by itself.
void widen_unix_socket(int descriptor) noexcept {
  int domain = 0;
  socklen_t length = sizeof domain;
  if (::getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &domain, &length) != 0 || domain != AF_UNIX) return;
  ::setsockopt(descriptor, SOL_SOCKET, SO_SNDBUF, &socket_buffer_bytes, sizeof socket_buffer_bytes);
}

}  // namespace

void reply_sender::queue(reply_part part) {
  if (broken_) return retire(part);
  queued_bytes_ += part.length();
  queued_.push_back(std::move(part));
  // Not parked, the task is in the middle of a batch, or about to look.
  const bool may_send = parked_ && sent_in_a_row_ < most_sent_in_a_row;
  if (queued_bytes_ >= send_at_once_bytes && may_send) send_at_once();
  if (!queued_.empty() || !batch_.empty()) wake();
}

void reply_sender::finish() {
  finishing_ = true;
  wake();
}

void reply_sender::wake() {
  if (parked_) run_later(socket_.get_executor(), std::exchange(parked_, nullptr));
}

task<void> reply_sender::run() {
  widen_unix_socket(socket_.native_handle());
  for (;;) {
    sent_in_a_row_ = 0;
    if (batch_.empty()) begin_batch();
    if (!batch_.empty()) {
      co_await send_batch();
    } else if (finishing_) {
      co_return;
    } else {
      co_await suspend_until([this](resumption resume) { parked_ = std::move(resume); });
    }
  }
}

task<void> reply_sender::send_batch() {
  while (next_ < batch_.size()) {
    const int error = send_some();
    if (error == EAGAIN) {
      // A cancelled wait only means that the connection is asked to end: what is queued is still sent.
      co_await socket_.async_wait(stream_socket::wait_write, use_tuple_task);
    } else if (error != 0) {
      break_off();
    }
  }
  end_batch();
}

void reply_sender::begin_batch() noexcept {
  std::swap(queued_, batch_);
  queued_bytes_ = 0;
}

void reply_sender::end_batch() noexcept {
  batch_.clear();
  next_ = 0;
}

void reply_sender::send_at_once() {
  ++sent_in_a_row_;
  begin_batch();
  while (next_ < batch_.size()) {
    const int error = send_some();
    if (error == EAGAIN) return;
    if (error != 0) break_off();
  }
  end_batch();
}

int reply_sender::send_some() {
  if (tls_ != nullptr) return send_secured();
  const reply_part& first = batch_[next_];
  if (first.from_file != nullptr && sent_of_next_ >= first.head_length) return send_file();
  std::array<iovec, pieces_per_call> pieces;
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = gather(pieces);
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return errno;
  advance(static_cast<std::size_t>(sent));
  return 0;
}

int reply_sender::send_file() {
  const reply_part& part = batch_[next_];
  const std::size_t done = sent_of_next_ - part.head_length;
  auto at = static_cast<off_t>(part.from_file->offset + done);
  ssize_t sent = -1;
  do {
    sent =
        ::sendfile(socket_.native_handle(), part.from_file->file.get(), &at, part.from_file->length - done);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return errno;
  // The file has become shorter, and the client was promised so many bytes.
  if (sent == 0) return EPIPE;
  advance(static_cast<std::size_t>(sent));
  return 0;
}

int reply_sender::send_secured() {
  // The batch does not change while it is sent, so a repeated call offers the same bytes, as TLS wants it.
  const tls_channel::moved sent = tls_->send(next_to_encrypt());
  if (sent.next == tls_channel::step::want_write) return EAGAIN;
  if (sent.next != tls_channel::step::done) return EPIPE;
  advance(sent.length);
  return 0;
}

std::span<const std::byte> reply_sender::next_to_encrypt() {
  std::array<iovec, pieces_per_call> pieces;
  const std::size_t count = gather(pieces);
  const std::span first(static_cast<const std::byte*>(pieces[0].iov_base), pieces[0].iov_len);
  if (first.size() >= record_bytes) return first;
  joined_.clear();
  for (const iovec& each : std::span(pieces).first(count)) {
    const auto* const begin = static_cast<const std::byte*>(each.iov_base);
    joined_.insert(joined_.end(), begin, begin + std::min(each.iov_len, record_bytes - joined_.size()));
  }
  return joined_;
}

std::size_t reply_sender::gather(std::span<iovec> into) const noexcept {
  std::size_t count = 0;
  std::size_t skip = sent_of_next_;
  const auto add = [&](std::span<const std::byte> piece) {
    const std::size_t skipped = std::min(skip, piece.size());
    skip -= skipped;
    piece = piece.subspan(skipped);
    if (!piece.empty()) into[count++] = {const_cast<std::byte*>(piece.data()), piece.size()};
  };
  for (std::size_t index = next_; index < batch_.size() && count + 2 <= into.size(); ++index) {
    add(batch_[index].head());
    if (batch_[index].from_file != nullptr) break;
    add(batch_[index].body);
  }
  return count;
}

void reply_sender::advance(std::size_t sent) {
  sent += sent_of_next_;
  while (next_ < batch_.size()) {
    reply_part& part = batch_[next_];
    const std::size_t length = part.length();
    if (sent < length) break;
    sent -= length;
    retire(part);
    ++next_;
  }
  sent_of_next_ = sent;
}

void reply_sender::retire(reply_part& part) {
  part.lease.reset();
  if (part.ends_reply) admitted_.leave(part.charge_bytes);
}

void reply_sender::break_off() {
  broken_ = true;
  error_code ignored;
  socket_.shutdown(stream_socket::shutdown_both, ignored);
  for (; next_ < batch_.size(); ++next_) retire(batch_[next_]);
  for (reply_part& part : queued_) retire(part);
  queued_.clear();
  queued_bytes_ = 0;
  sent_of_next_ = 0;
}

}  // namespace weir::nbd
