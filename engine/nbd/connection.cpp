#include "engine/nbd/connection.hpp"

#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace weir::nbd {
namespace {

/// One receive holds the 4 KiB writes of a deep queue.
constexpr std::size_t receive_bytes = 256 * KiB;
/// Handshake answers are sent at the latest when they are this long.
constexpr std::size_t most_unsent_answers = 64 * KiB;

}  // namespace

connection::connection(stream_socket socket, const connection_commons& commons, connection_settings settings,
                       listener_policy policy)
    : socket_(std::move(socket)),
      commons_(commons),
      settings_(settings),
      policy_(std::move(policy)),
      deadline_(socket_.get_executor()),
      received_(receive_bytes),
      handshake_(commons.exports, {.tls = policy_.credentials != nullptr, .access = policy_.access.get()}),
      admitted_(socket_.get_executor(), settings.limits, commons.in_flight),
      replies_(socket_, admitted_) {}

task<void> connection::run() {
  if (settings_.handshake_timeout.count() > 0) set_deadline(settings_.handshake_timeout);
  const bool agreed = co_await negotiate();
  if (agreed) {
    if (!shutting_down_) clear_deadline();
    co_await serve();
  }
  clear_deadline();
  if (tls_) tls_->say_goodbye();
  error_code ignored;
  socket_.shutdown(stream_socket::shutdown_send, ignored);
  socket_.close(ignored);
}

void connection::begin_shutdown() {
  if (shutting_down_) return;
  shutting_down_ = true;
  handshake_.begin_shutdown();
  set_deadline(settings_.linger_timeout);
  error_code ignored;
  socket_.cancel(ignored);
}

void connection::abandon() noexcept {
  abandoned_ = true;
  error_code ignored;
  socket_.shutdown(stream_socket::shutdown_both, ignored);
  socket_.cancel(ignored);
  // It may be waiting for room that others have.
  commons_.in_flight.wake_waiters();
}

task<bool> connection::negotiate() {
  using phase = handshake::phase;
  std::vector<std::byte> answers = handshake_.take_output();
  for (;;) {
    while (handshake_.now() == phase::negotiating && !received_.content().empty() &&
           answers.size() < most_unsent_answers) {
      received_.consume(handshake_.feed(received_.content()));
      const std::vector<std::byte> more = handshake_.take_output();
      answers.insert(answers.end(), more.begin(), more.end());
    }
    // From here on the export cannot be removed without this connection being told.
    if (handshake_.now() == phase::transmitting) entry_ = commons_.exports.at(handshake_.terms().facts.name);
    const bool sent = co_await send_answers(answers);
    if (!sent || handshake_.now() == phase::closing) co_return false;
    if (handshake_.now() == phase::transmitting) co_return true;
    if (handshake_.now() == phase::securing) {
      const bool secured = co_await secure();
      if (!secured) co_return false;
    }
    answers.clear();
    if (!received_.content().empty()) continue;
    const bool more = co_await receive_more();
    if (!more) co_return false;
  }
}

task<bool> connection::send_answers(std::vector<std::byte>& answers) {
  if (!tls_) {
    const auto [error, sent] =
        co_await boost::asio::async_write(socket_, boost::asio::buffer(answers), use_tuple_task);
    co_return !error;
  }
  std::span<const std::byte> left = answers;
  while (!left.empty()) {
    const tls_channel::moved sent = tls_->send(left);
    if (sent.next == tls_channel::step::done) {
      left = left.subspan(sent.length);
      continue;
    }
    const bool ready = co_await wait_for(sent.next);
    if (!ready) co_return false;
  }
  co_return true;
}

task<bool> connection::secure() {
  const auto refuse = [this](const std::string& why) {
    if (commons_.report) commons_.report(failure{errc::not_supported, "NBD client refused: TLS: " + why});
  };
  if (!received_.content().empty()) {
    refuse("there was unprotected data behind STARTTLS");
    co_return false;
  }
  tls_ = std::make_unique<tls_channel>(policy_.credentials, socket_.native_handle());
  for (;;) {
    const tls_channel::step next = tls_->shake_hands();
    if (next == tls_channel::step::done) break;
    if (next == tls_channel::step::failed) {
      refuse(tls_->why());
      co_return false;
    }
    const bool ready = co_await wait_for(next);
    if (!ready) co_return false;
  }
  handshake_.secured(tls_->identity());
  replies_.encrypt(*tls_);
  co_return true;
}

task<void> connection::serve() {
  runner_.emplace(*entry_, handshake_.terms(), commons_.buffers, replies_);
  task_group sending(socket_.get_executor());
  sending.spawn(replies_.run());
  co_await take_requests();
  if (!shutting_down_) set_deadline(settings_.linger_timeout);
  co_await runner_->finish();
  replies_.finish();
  co_await sending.join();
}

task<void> connection::take_requests() {
  for (;;) {
    const bool go_on = co_await take_buffered_requests();
    if (!go_on) co_return;
    const bool more = co_await receive_more();
    if (!more) co_return;
  }
}

task<bool> connection::take_buffered_requests() {
  const std::size_t header_bytes = request_size_of(handshake_.terms());
  while (received_.content().size() >= header_bytes) {
    const request asked = decode_request(received_.content(), handshake_.terms());
    const ruling rule = rule_on(asked, handshake_.terms(), shutting_down_);
    if (rule.what == ruling::action::close || rule.what == ruling::action::disconnect) co_return false;
    received_.consume(header_bytes);
    if (take_at_once(asked, rule)) continue;
    const bool taken = co_await take_request(asked, rule);
    if (!taken) co_return false;
  }
  co_return true;
}

/// Without a coroutine, where nothing has to be waited for.
bool connection::take_at_once(const request& asked, const ruling& rule) {
  if (rule.what != ruling::action::execute || replies_.is_broken() || abandoned_) return false;
  const std::uint32_t charge = std::max(rule.payload, rule.reply_bytes);
  if (!admitted_.has_room(charge) || received_.content().size() < rule.payload) return false;
  buffer_lease payload;
  if (rule.payload > 0) {
    std::optional<buffer_lease> lent = commons_.buffers.try_acquire(rule.payload);
    if (!lent) return false;
    payload = std::move(*lent);
    std::memcpy(payload.bytes().data(), received_.content().data(), rule.payload);
    received_.consume(rule.payload);
  }
  admitted_.enter(charge);
  runner_->start(asked, std::move(payload), charge);
  return true;
}

task<bool> connection::take_request(const request& asked, const ruling& rule) {
  const bool refused = rule.what == ruling::action::refuse;
  const std::uint32_t charge = refused ? 0 : std::max(rule.payload, rule.reply_bytes);
  while (!admitted_.has_room(charge) && !abandoned_) co_await admitted_.wait_for_change(charge);
  if (replies_.is_broken() || abandoned_) co_return false;
  // From here on: a payload that is only announced has its buffer already.
  admitted_.enter(charge);
  buffer_lease payload;
  bool complete = true;
  if (refused) {
    complete = co_await drop_payload(rule.payload);
  } else if (rule.payload > 0) {
    payload = co_await commons_.buffers.acquire(rule.payload);
    complete = co_await take_payload(payload.bytes());
  }
  if (!complete) {
    admitted_.leave(charge);
  } else if (refused) {
    runner_->answer(asked, rule.error, rule.why, charge);
  } else {
    runner_->start(asked, std::move(payload), charge);
  }
  co_return complete;
}

task<bool> connection::take_payload(std::span<std::byte> into) {
  const std::size_t buffered = std::min(into.size(), received_.content().size());
  std::memcpy(into.data(), received_.content().data(), buffered);
  received_.consume(buffered);
  into = into.subspan(buffered);
  while (!into.empty()) {
    // The same call takes the requests that follow.
    const std::span<std::byte> behind = received_.room();
    const receive_target target{boost::asio::buffer(into.data(), into.size()),
                                boost::asio::buffer(behind.data(), behind.size())};
    const std::size_t length = co_await receive_into(target);
    if (length == 0) co_return false;
    const std::size_t mine = std::min(length, into.size());
    into = into.subspan(mine);
    received_.fill(length - mine);
  }
  co_return true;
}

task<bool> connection::drop_payload(std::size_t length) {
  for (;;) {
    const std::size_t buffered = std::min(length, received_.content().size());
    received_.consume(buffered);
    length -= buffered;
    if (length == 0) co_return true;
    const bool more = co_await receive_more();
    if (!more) co_return false;
  }
}

task<bool> connection::receive_more() {
  if (shutting_down_) co_return receive_rest();
  const std::span<std::byte> room = received_.room();
  const receive_target target{boost::asio::buffer(room.data(), room.size()), {}};
  const std::size_t length = co_await receive_into(target);
  received_.fill(length);
  if (length == 0 && shutting_down_) co_return receive_rest();
  co_return length > 0;
}

task<std::size_t> connection::receive_into(receive_target target) {
  if (tls_) {
    const boost::asio::mutable_buffer& into = target[target[0].size() == 0 ? 1 : 0];
    co_return co_await receive_secured({static_cast<std::byte*>(into.data()), into.size()});
  }
  const auto [error, length] = co_await socket_.async_read_some(target, use_tuple_task);
  co_return error ? 0 : length;
}

task<std::size_t> connection::receive_secured(std::span<std::byte> into) {
  for (;;) {
    const tls_channel::moved got = tls_->receive(into);
    if (got.next == tls_channel::step::done) co_return got.length;
    const bool ready = co_await wait_for(got.next);
    if (!ready) co_return 0;
  }
}

task<bool> connection::wait_for(tls_channel::step next) {
  if (next != tls_channel::step::want_read && next != tls_channel::step::want_write) co_return false;
  const auto what =
      next == tls_channel::step::want_read ? stream_socket::wait_read : stream_socket::wait_write;
  const auto [error] = co_await socket_.async_wait(what, use_tuple_task);
  co_return !error && !abandoned_;
}

/// While shutting down only what has arrived already is looked at.
bool connection::receive_rest() {
  const std::span<std::byte> room = received_.room();
  std::size_t length = 0;
  if (tls_) {
    length = tls_->receive(room).length;
  } else if (const ssize_t got = ::recv(socket_.native_handle(), room.data(), room.size(), MSG_DONTWAIT);
             got > 0) {
    length = static_cast<std::size_t>(got);
  }
  received_.fill(length);
  return length > 0;
}

void connection::set_deadline(std::chrono::milliseconds from_now) {
  const std::uint64_t number = ++deadline_number_;
  deadline_.expires_after(from_now);
  deadline_.async_wait([weak = weak_from_this(), number](error_code error) {
    const std::shared_ptr<connection> self = weak.lock();
    // A newer deadline, or none, may have been set after this one expired but before its turn came.
    if (!error && self && self->deadline_number_ == number) self->abandon();
  });
}

void connection::clear_deadline() {
  ++deadline_number_;
  deadline_.cancel();
}

}  // namespace weir::nbd
