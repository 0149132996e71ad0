// The control socket: QMP for several clients, and the events of jobs and exports to all of them.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/base/task_group.hpp"
#include "engine/base/unix_listener.hpp"
#include "engine/control/control_client.hpp"
#include "engine/control/engine_control.hpp"
#include "engine/control/job_report.hpp"
#include "engine/jobs/job_manager.hpp"

#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/local/stream_protocol.hpp>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace weir {

class control_server final : private job_observer {
 public:
  static constexpr std::size_t most_clients = 64;

  /// `engine` must outlive the server.
  control_server(executor context, engine_control& engine);
  ~control_server() override;
  control_server(const control_server&) = delete;
  control_server& operator=(const control_server&) = delete;

  /// Accepts clients from now on. Failures name the path.
  outcome<void> listen(const std::string& path);
  /// The same on a descriptor that listens already; takes it over.
  outcome<void> listen_on(int descriptor);
  /// Sends an event to every client.
  void publish(const qmp_event& event);
  /// Disconnects everybody and waits until all have gone.
  task<void> stop();

 private:
  using acceptor = boost::asio::basic_socket_acceptor<boost::asio::local::stream_protocol, executor>;

  task<void> accept_clients();
  task<void> serve(std::shared_ptr<control_client> client);

  void on_job_status(const job& changed) override;
  void on_job_ready(const job& changed) override;
  void on_job_error(const job& failed, bool is_read, std::string_view action) override;
  void on_job_speed(const job&) override {}

  executor executor_;
  engine_control& engine_;
  std::optional<unix_listener> file_;
  acceptor acceptor_;
  std::vector<std::shared_ptr<control_client>> clients_;
  task_group tasks_;
};

}  // namespace weir
