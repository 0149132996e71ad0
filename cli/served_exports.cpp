#include "cli/served_exports.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace weir::cli {
namespace {

failure refuse(std::string what) {
  return {errc::not_supported, std::move(what)};
}

}  // namespace

served_exports::served_exports(executor context, disk_finder find_disk)
    : context_(std::move(context)), find_disk_(std::move(find_disk)) {}

outcome<void> served_exports::publish(const export_settings& settings) {
  nbd::export_entry entry;
  entry.name = settings.name;
  entry.description = settings.description;
  entry.target = find_disk_(settings.node);
  assert(entry.target != nullptr);
  entry.read_only = !settings.writable;
  return server_->exports().add(std::move(entry));
}

outcome<void> served_exports::listen(const nbd::listen_address& address) {
  if (!server_) {
    server_ = std::make_unique<nbd_server>(context_, nbd_server_settings{});
    for (const export_settings& each : entries_) {
      if (auto published = publish(each); published.has_error()) return published;
    }
  }
  return server_->listen(address);
}

outcome<void> served_exports::add_at_start(export_settings settings) {
  if (server_) {
    if (auto published = publish(settings); published.has_error()) return published;
  }
  entries_.push_back(std::move(settings));
  return {};
}

task<void> served_exports::close() {
  if (server_) co_await server_->stop();
  server_.reset();
  entries_.clear();
}

outcome<void> served_exports::start_server(weir::listen_address where) {
  if (server_) return refuse("NBD server already running");
  entries_.clear();
  outcome<void> listening;
  if (where.path.empty()) {
    listening = listen(nbd::tcp_address{where.host, where.port});
  } else {
    listening = listen(nbd::unix_address{where.path});
  }
  // Nothing listens, so nobody can be connected.
  if (listening.has_error()) server_.reset();
  return listening;
}

task<outcome<void>> served_exports::stop_server() {
  if (!server_) co_return refuse("NBD server not running");
  const std::unique_ptr<nbd_server> stopping = std::move(server_);
  const std::vector<export_settings> gone = std::exchange(entries_, {});
  co_await stopping->stop();
  for (const export_settings& each : gone) tell_deleted(each.id);
  co_return outcome<void>{};
}

outcome<void> served_exports::add(export_settings settings) {
  if (!server_) return refuse("NBD server not running");
  if (server_->exports().at(settings.name) != nullptr) {
    return refuse("NBD server already has export named '" + settings.name + "'");
  }
  return add_at_start(std::move(settings));
}

task<outcome<void>> served_exports::remove(std::string id, bool force) {
  const auto found = std::ranges::find(entries_, id, &export_settings::id);
  if (found == entries_.end()) co_return refuse("Export '" + id + "' is not found");
  const std::string name = found->name;
  if (!server_) {
    entries_.erase(found);
    tell_deleted(id);
    co_return outcome<void>{};
  }
  if (!force && server_->connection_count(name) > 0) {
    co_return refuse("export '" + id + "' still in use; use mode='hard' to force client disconnect");
  }
  entries_.erase(found);
  co_await server_->remove_export(name);
  tell_deleted(id);
  co_return outcome<void>{};
}

}  // namespace weir::cli
