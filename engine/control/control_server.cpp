#include "engine/control/control_server.hpp"

#include "engine/base/timer.hpp"

#include <boost/asio/as_tuple.hpp>

#include <algorithm>
#include <chrono>
#include <utility>

namespace weir {
namespace {

constexpr auto no_throw = boost::asio::as_tuple(use_task);

}  // namespace

control_server::control_server(executor context, engine_control& engine)
    : executor_(context), engine_(engine), acceptor_(context), tasks_(context) {
  engine_.jobs().add_observer(*this);
  engine_.exports().set_deleted_hook(
      [this](const std::string& id) { publish({"BLOCK_EXPORT_DELETED", {{"id", id}}}); });
}

control_server::~control_server() {
  engine_.jobs().remove_observer(*this);
  engine_.exports().set_deleted_hook({});
}

outcome<void> control_server::listen(const std::string& path) {
  auto opened = unix_listener::open(path);
  if (opened.has_error()) return opened.error();
  file_.emplace(std::move(*opened));
  return listen_on(file_->release());
}

outcome<void> control_server::listen_on(int descriptor) {
  boost::system::error_code error;
  acceptor_.assign(boost::asio::local::stream_protocol(), descriptor, error);
  if (error) return make_failure(error, "control socket");
  tasks_.spawn(accept_clients());
  return {};
}

task<void> control_server::accept_clients() {
  using namespace std::chrono_literals;
  timer pause(executor_);
  while (acceptor_.is_open()) {
    auto [error, connected] = co_await acceptor_.async_accept(no_throw);
    if (error == boost::asio::error::operation_aborted) co_return;
    if (error) {
      // Out of descriptors or memory: the client stays in the backlog.
      pause.expires_after(100ms);
      co_await pause.async_wait(no_throw);
      continue;
    }
    if (clients_.size() >= most_clients) continue;
    auto client = std::make_shared<control_client>(std::move(connected), engine_);
    clients_.push_back(client);
    tasks_.spawn(serve(client));
  }
}

task<void> control_server::serve(std::shared_ptr<control_client> client) {
  co_await client->run();
  std::erase(clients_, client);
}

void control_server::publish(const qmp_event& event) {
  if (clients_.empty()) return;
  const std::string line = event_line(event, std::chrono::system_clock::now());
  for (const auto& client : clients_) client->send_event(line);
}

task<void> control_server::stop() {
  boost::system::error_code ignored;
  acceptor_.close(ignored);
  file_.reset();
  for (const auto& client : clients_) client->close();
  co_await tasks_.join();
}

void control_server::on_job_status(const job& changed) {
  for (const qmp_event& event : events_of_status(changed)) publish(event);
}

void control_server::on_job_ready(const job& changed) {
  publish(event_of_ready(changed));
}

void control_server::on_job_error(const job& failed, bool is_read, std::string_view action) {
  publish(event_of_error(failed, is_read, action));
}

}  // namespace weir
