#include "engine/block/storage_openers.hpp"

#include "engine/block/network_protocol.hpp"
#include "engine/storage/http_storage.hpp"
#include "engine/storage/nbd_storage.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <string>
#include <utility>

namespace weir {
namespace {

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

/// What open_local_file is to be given: a path, or "fd:N" for a descriptor group.
outcome<std::string> name_to_open(const layer_source& source) {
  if (source.type != "file" && source.type != "block") {
    const std::string kind =
        source.type == "network" ? "protocol " + source.protocol : "storage of type " + source.type;
    return make_failure(errc::unsupported_feature, describe(source), kind + " is not supported");
  }
  if (source.fd_group.empty()) return source.path;
  if (!is_number(source.fd_group)) {
    return make_failure(errc::unsupported_feature, describe(source),
                        "fdgroup '" + source.fd_group + "' is not a descriptor's number");
  }
  return "fd:" + source.fd_group;
}

bool is_block_device(const storage& opened) {
  const std::optional<int> descriptor = opened.descriptor();
  struct stat facts{};
  if (descriptor) return fstat(*descriptor, &facts) == 0 && S_ISBLK(facts.st_mode);
  return stat(opened.location().c_str(), &facts) == 0 && S_ISBLK(facts.st_mode);
}

task<outcome<std::unique_ptr<storage>>> open_local(file_io& io, layer_source& source,
                                                   local_file_options options) {
  const outcome<std::string> name = name_to_open(source);
  if (!name) co_return name.error();
  auto opened = co_await open_local_file(io, *name, options);
  if (opened && source.type == "file" && is_block_device(**opened)) source.type = "block";
  co_return opened;
}

outcome<nbd_target> target_of(const layer_source& source, const opener_settings& settings) {
  const auto refuse = [&](const char* why) {
    return make_failure(errc::unsupported_feature, describe(source), why);
  };
  if (source.hosts.size() != 1) return refuse("an NBD layer wants exactly one server");
  const network_host& host = source.hosts.front();
  nbd_target target;
  target.location = describe(source);
  target.export_name = source.name;
  target.tls = source.tls;
  target.tls_directory = settings.tls_directory;
  if (host.transport == "unix") {
    target.socket_path = host.socket;
    if (target.socket_path.empty()) return refuse("no socket is named");
    return target;
  }
  if (!host.transport.empty() && host.transport != "tcp")
    return refuse("only tcp and unix sockets are supported");
  target.host = host.name;
  target.port = host.port.empty() ? std::string(find_network_protocol("nbd")->default_port) : host.port;
  return target;
}

bool is_web(const layer_source& source) {
  return source.type == "network" && (source.protocol == "http" || source.protocol == "https");
}

/// What <timeout>, <readahead> and <ssl verify=> ask for. An empty text says that all are understood.
std::string apply_details(const layer_source& source, http_target& target, http_client_settings& settings) {
  for (const auto& [key, value] : source.details) {
    if (key == "sslverify") {
      target.verify_peer = value != "no";
      continue;
    }
    std::uint64_t number = 0;
    const char* const last = value.data() + value.size();
    const auto [end, error] = std::from_chars(value.data(), last, number);
    constexpr std::uint64_t most = 1'000'000'000;
    const bool is_known = key == "timeout" || key == "readahead";
    if (is_known && (error != std::errc{} || end != last || number > most)) return "bad " + key;
    if (key == "readahead") settings.read_ahead_bytes = number;
    if (key == "timeout" && number != 0) {
      settings.connect_timeout = std::chrono::seconds(number);
      settings.stall_timeout = std::chrono::seconds(number);
    }
  }
  return {};
}

task<outcome<std::unique_ptr<storage>>> open_web(file_io& io, const layer_source& source,
                                                 const opener_settings& settings, bool writable) {
  http_target target;
  http_client_settings patience = settings.http;
  target.url = describe(source);
  target.location = source.query.empty() ? target.url : target.url.substr(0, target.url.find('?'));
  target.user = source.secrets.user;
  target.password = source.secrets.password;
  target.cookies = source.secrets.cookies;
  target.ca_directory = settings.tls_directory;
  if (writable) co_return make_failure(errc::read_only, target.location, "web servers are only read from");
  if (source.hosts.size() != 1 || !source.hosts.front().transport.empty()) {
    co_return make_failure(errc::unsupported_feature, target.location, "wants exactly one server, over TCP");
  }
  const std::string wrong = apply_details(source, target, patience);
  if (!wrong.empty()) co_return make_failure(errc::unsupported_feature, target.location, wrong);
  co_return co_await open_http_storage(io.context(), std::move(target), patience);
}

task<outcome<std::unique_ptr<storage>>> open_source(file_io& io, layer_source& source,
                                                    opener_settings settings, bool writable) {
  if (is_web(source)) co_return co_await open_web(io, source, settings, writable);
  if (source.type != "network" || source.protocol != "nbd") {
    const local_file_options options{
        .writable = writable, .create = false, .cache = settings.cache, .locking = settings.locking};
    co_return co_await open_local(io, source, options);
  }
  const outcome<nbd_target> target = target_of(source, settings);
  if (!target) co_return target.error();
  co_return co_await open_nbd_storage(io.context(), io.workers(), *target, settings.nbd, writable);
}

}  // namespace

storage_opener make_storage_opener(file_io& io, opener_settings settings) {
  return [&io, settings = std::move(settings)](layer_source& source, bool writable) {
    return open_source(io, source, settings, writable);
  };
}

}  // namespace weir
