// The NBD side of `weir serve`: one server, and the exports with their ids.
#pragma once

#include "engine/control/engine_control.hpp"
#include "engine/nbd/nbd_server.hpp"

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace weir::cli {

class served_exports final : public export_control {
 public:
  using disk_finder = std::function<disk*(std::string_view name)>;

  served_exports(executor context, disk_finder find_disk);

  /// How the server that listen() starts treats its clients. To be called before.
  void configure(nbd_server_settings settings, nbd::listener_policy policy) {
    settings_ = std::move(settings);
    policy_ = std::move(policy);
  }
  /// Listens there, with the exports there are. Starts the server.
  outcome<void> listen(const nbd::listen_address& address) { return listen_with(address, policy_); }
  /// The same without TLS and for every client, whatever configure() said.
  outcome<void> listen_plainly(const nbd::listen_address& address) { return listen_with(address, {}); }
  /// As add(), for exports the command line asks for: any id, and before the server runs.
  outcome<void> add_at_start(export_settings settings);
  /// Stops the server for good and forgets the exports, without events.
  task<void> close();

  outcome<void> start_server(nbd_server_request asked) override;
  task<outcome<void>> stop_server() override;
  outcome<void> add(export_settings settings) override;
  task<outcome<void>> remove(std::string id, bool force) override;
  std::vector<export_settings> list() const override { return entries_; }
  outcome<void> add_credentials(credentials_settings settings) override;
  outcome<void> remove_credentials(const std::string& id) override;
  void set_deleted_hook(std::function<void(const std::string& id)> hook) override {
    deleted_ = std::move(hook);
  }

 private:
  outcome<void> listen_with(const nbd::listen_address& address, nbd::listener_policy policy);
  outcome<void> publish(const export_settings& settings);
  outcome<void> check_bitmaps(const export_settings& settings) const;
  void tell_deleted(const std::string& id) {
    if (deleted_) deleted_(id);
  }

  executor context_;
  disk_finder find_disk_;
  nbd_server_settings settings_;
  nbd::listener_policy policy_;
  std::map<std::string, std::shared_ptr<const nbd::tls_credentials>> credentials_;  // by id
  std::unique_ptr<nbd_server> server_;
  std::vector<export_settings> entries_;
  std::function<void(const std::string& id)> deleted_;
};

}  // namespace weir::cli
