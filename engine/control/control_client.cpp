#include "engine/control/control_client.hpp"

#include "engine/base/task_group.hpp"
#include "engine/control/command_table.hpp"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/write.hpp>

#include <array>
#include <utility>
#include <vector>

namespace weir {
namespace {

constexpr auto no_throw = boost::asio::as_tuple(use_task);
constexpr std::size_t read_bytes = 16 * 1024;

}  // namespace

control_client::control_client(socket connected, engine_control& engine)
    : socket_(std::move(connected)), engine_(engine), output_changed_(socket_.get_executor()) {}

task<void> control_client::run() {
  send(qmp_session::greeting(engine_.version()));
  task_group tasks(socket_.get_executor());
  tasks.spawn(write_output());
  co_await read_requests();
  disconnect();
  co_await tasks.join();
}

task<void> control_client::read_requests() {
  std::array<char, read_bytes> buffer;
  while (!closed_) {
    const auto [error, length] =
        co_await socket_.async_read_some(boost::asio::buffer(buffer.data(), buffer.size()), no_throw);
    if (error) co_return;
    std::vector<qmp_request> requests = session_.feed(std::string_view(buffer.data(), length));
    for (qmp_request& request : requests) {
      while (!closed_ && unread_bytes() > pause_bytes) co_await output_changed_.wait();
      if (closed_) co_return;
      co_await answer(std::move(request));
    }
  }
}

task<void> control_client::answer(qmp_request request) {
  const qmp_session::verdict verdict = session_.admit(request);
  if (verdict.refusal) {
    send(qmp_session::reply_line(request.id, *verdict.refusal));
  } else if (verdict.answered) {
    send(qmp_session::reply_line(request.id, boost::json::value(boost::json::object{})));
  } else {
    co_await execute(std::move(request));
  }
}

task<void> control_client::execute(qmp_request request) {
  const command_handler handler = find_command(request.command);
  if (handler == nullptr) {
    send(qmp_session::reply_line(request.id, command_not_found(request.command)));
    co_return;
  }
  const qmp_reply reply = co_await handler(engine_, request.arguments);
  send(qmp_session::reply_line(request.id, reply));
}

task<void> control_client::write_output() {
  while (!closed_) {
    if (pending_.empty()) {
      co_await output_changed_.wait();
      continue;
    }
    writing_.swap(pending_);
    const auto [error, length] = co_await boost::asio::async_write(
        socket_, boost::asio::buffer(writing_.data(), writing_.size()), no_throw);
    writing_.clear();
    output_changed_.notify_all();
    if (error) disconnect();
  }
}

void control_client::send_event(std::string_view line) {
  if (closed_ || !session_.negotiated()) return;
  if (unread_bytes() + line.size() > drop_bytes) return disconnect();
  send(line);
}

void control_client::send(std::string_view line) {
  if (closed_) return;
  pending_ += line;
  output_changed_.notify_all();
}

void control_client::close() {
  if (closed_) return;
  if (writing_.empty() && !pending_.empty()) {
    boost::system::error_code ignored;
    socket_.non_blocking(true, ignored);
    socket_.write_some(boost::asio::buffer(pending_.data(), pending_.size()), ignored);
  }
  disconnect();
}

void control_client::disconnect() noexcept {
  if (std::exchange(closed_, true)) return;
  boost::system::error_code ignored;
  socket_.shutdown(socket::shutdown_both, ignored);
  socket_.close(ignored);
  output_changed_.notify_all();
}

}  // namespace weir
