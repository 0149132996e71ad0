// The NBD side of `weir serve`: one server, and the exports with their ids.
#pragma once

#include "engine/control/engine_control.hpp"
#include "engine/nbd/nbd_server.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace weir::cli {

class served_exports final : public export_control {
 public:
  using disk_finder = std::function<disk*(std::string_view name)>;

  served_exports(executor context, disk_finder find_disk);

  /// Listens there, with the exports there are. Starts the server.
  outcome<void> listen(const nbd::listen_address& address);
  /// As add(), for exports the command line asks for: any id, and before the server runs.
  outcome<void> add_at_start(export_settings settings);
  /// Stops the server for good and forgets the exports, without events.
  task<void> close();

  outcome<void> start_server(weir::listen_address where) override;
  task<outcome<void>> stop_server() override;
  outcome<void> add(export_settings settings) override;
  task<outcome<void>> remove(std::string id, bool force) override;
  std::vector<export_settings> list() const override { return entries_; }
  void set_deleted_hook(std::function<void(const std::string& id)> hook) override {
    deleted_ = std::move(hook);
  }

 private:
  outcome<void> publish(const export_settings& settings);
  void tell_deleted(const std::string& id) {
    if (deleted_) deleted_(id);
  }

  executor context_;
  disk_finder find_disk_;
  std::unique_ptr<nbd_server> server_;
  std::vector<export_settings> entries_;
  std::function<void(const std::string& id)> deleted_;
};

}  // namespace weir::cli
