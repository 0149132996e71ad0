#include "cli/served_exports.hpp"

#include "engine/block/bitmap_store.hpp"

#include <algorithm>
#include <cassert>
#include <chrono>
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
  entry.bitmaps = settings.bitmaps;
  return server_->exports().add(std::move(entry));
}

outcome<void> served_exports::listen_with(const nbd::listen_address& address, nbd::listener_policy policy) {
  if (!server_) {
    server_ = std::make_unique<nbd_server>(context_, settings_);
    for (const export_settings& each : entries_) {
      if (auto published = publish(each); published.has_error()) return published;
    }
  }
  return server_->listen(address, std::move(policy));
}

outcome<void> served_exports::add_at_start(export_settings settings) {
  if (auto checked = check_bitmaps(settings); checked.has_error()) return checked;
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

outcome<void> served_exports::check_bitmaps(const export_settings& settings) const {
  const disk& target = *find_disk_(settings.node);
  const bitmap_store* const known = target.chain().active().image->bitmaps();
  for (const std::string& name : settings.bitmaps) {
    const kept_bitmap* const found = known == nullptr ? nullptr : known->find(name);
    if (found == nullptr) return refuse("Bitmap '" + name + "' is not found");
    if (found->inconsistent) return refuse("Bitmap '" + name + "' is inconsistent and cannot be used");
    // What a reader sees must not change under it.
    if (found->enabled && !settings.writable && !target.read_only()) {
      return refuse("Enabled bitmap '" + name + "' incompatible with readonly export");
    }
  }
  return {};
}

outcome<void> served_exports::start_server(nbd_server_request asked) {
  if (server_) return refuse("NBD server already running");
  // What the command line said about clients holds for its own sockets.
  policy_ = {};
  if (!asked.tls_credentials.empty()) {
    const auto found = credentials_.find(asked.tls_credentials);
    if (found == credentials_.end())
      return refuse("No TLS credentials with id '" + asked.tls_credentials + "'");
    policy_.credentials = found->second;
  }
  entries_.clear();
  settings_.most_connections = asked.most_connections;
  settings_.connection.handshake_timeout = std::chrono::seconds(asked.handshake_timeout_s);
  const outcome<void> listening = listen(asked.where);
  // Nothing listens, so nobody can be connected.
  if (listening.has_error()) server_.reset();
  return listening;
}

outcome<void> served_exports::add_credentials(credentials_settings settings) {
  if (credentials_.contains(settings.id)) {
    return refuse("attempt to add duplicate property '" + settings.id + "' to object (type 'container')");
  }
  const auto wanted =
      settings.pre_shared_keys ? nbd::tls_proof::pre_shared_keys : nbd::tls_proof::certificates;
  auto loaded = nbd::tls_credentials::load(settings.directory, wanted);
  if (loaded.has_error()) return loaded.error();
  credentials_.emplace(std::move(settings.id), std::move(*loaded));
  return {};
}

outcome<void> served_exports::remove_credentials(const std::string& id) {
  if (credentials_.erase(id) == 0) return refuse("object '" + id + "' not found");
  return {};
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
