// Serves disks over NBD, for tests of the server alone (`weir serve` is tested elsewhere):
//
//   nbd_test_server [OPTION…] ADDRESS… NAME=SOURCE…
//
// ADDRESS: unix:PATH, tcp:HOST:PORT, fd:N.  SOURCE: memory:BYTES or raw:PATH.
// OPTION: --tls=DIR, --read-only, --handshake-ms=N, --linger-ms=N, --most-connections=N.
// Prints "ready ADDRESS…" when it listens; stops on SIGTERM.
#include "engine/block/disk.hpp"
#include "engine/nbd/nbd_server.hpp"
#include "engine/storage/local_file.hpp"
#include "engine/storage/memory_storage.hpp"
#include "formats/raw/raw.hpp"

#include <boost/asio/basic_signal_set.hpp>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace {

using namespace weir;

[[noreturn]] void fail(const std::string& why) {
  std::fprintf(stderr, "nbd_test_server: %s\n", why.c_str());
  std::exit(1);
}

std::uint64_t number(std::string_view text) {
  std::uint64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc{}) {
    fail("not a number: " + std::string(text));
  }
  return value;
}

struct command_line {
  bool read_only = false;
  nbd_server_settings server;
  nbd::listener_policy policy;
  std::vector<nbd::listen_address> addresses;
  std::vector<std::pair<std::string, std::string>> exports;
};

bool take_option(std::string_view text, command_line& into) {
  const std::string_view value = text.substr(std::min(text.find('=') + 1, text.size()));
  if (text == "--read-only") {
    into.read_only = true;
  } else if (text.starts_with("--tls=")) {
    const auto loaded = nbd::tls_credentials::load(std::string(value));
    if (!loaded) fail(loaded.error().what);
    into.policy.credentials = *loaded;
  } else if (text.starts_with("--handshake-ms=")) {
    into.server.connection.handshake_timeout = std::chrono::milliseconds(number(value));
  } else if (text.starts_with("--linger-ms=")) {
    into.server.connection.linger_timeout = std::chrono::milliseconds(number(value));
  } else if (text.starts_with("--most-connections=")) {
    into.server.most_connections = static_cast<unsigned>(number(value));
  } else {
    return false;
  }
  return true;
}

command_line parse(std::span<char*> arguments) {
  command_line parsed;
  for (const std::string_view text : arguments) {
    if (take_option(text, parsed)) continue;
    if (const std::size_t equals = text.find('='); equals != std::string_view::npos) {
      parsed.exports.emplace_back(text.substr(0, equals), text.substr(equals + 1));
    } else if (const auto address = nbd::parse_listen_address(text)) {
      parsed.addresses.push_back(*address);
    } else {
      fail(address.error().what);
    }
  }
  return parsed;
}

class world {
 public:
  explicit world(boost::asio::io_context& io)
      : context_(io.get_executor()), buffers_(context_, std::size_t{256} << 20), workers_(context_, 2) {
    auto made = make_file_io(context_, workers_, aio_mode::automatic);
    if (!made) fail(made.error().what);
    files_ = *std::move(made);
  }

  task<void> serve(const command_line& asked) {
    // Before "ready" is said: who reads that may send one at once.
    boost::asio::basic_signal_set<executor> signals(context_, SIGTERM, SIGINT);
    nbd_server_settings settings = asked.server;
    settings.report = [](const failure& what) { std::fprintf(stderr, "%s\n", what.what.c_str()); };
    nbd_server server(context_, settings);
    for (const auto& [name, source] : asked.exports) {
      disks_.push_back(co_await open(name, source, !asked.read_only));
      const auto added = server.exports().add({.name = name,
                                               .description = "test disk " + name,
                                               .target = disks_.back().get(),
                                               .read_only = asked.read_only});
      if (!added) fail(added.error().what);
    }
    for (const nbd::listen_address& address : asked.addresses) {
      const auto listening = server.listen(address, asked.policy);
      if (!listening) fail(listening.error().what);
    }
    std::string ready = "ready";
    for (const std::string& address : server.addresses()) ready += " " + address;
    std::puts(ready.c_str());
    std::fflush(stdout);
    co_await signals.async_wait(use_task);
    co_await server.stop();
    for (const auto& each : disks_) {
      const auto closed = co_await each->close();
      if (!closed) fail(each->name() + ": " + closed.error().message());
    }
  }

 private:
  task<std::unique_ptr<disk>> open(std::string name, std::string source, bool writable) {
    const std::string kind = source.substr(0, source.find(':'));
    const std::string rest = source.substr(kind.size() + 1);
    std::unique_ptr<storage> bytes;
    if (kind == "memory") {
      bytes = std::make_unique<memory_storage>(source, number(rest));
    } else {
      const local_file_options options{.writable = writable};
      auto opened = co_await open_local_file(*files_, rest, options);
      if (!opened) fail(opened.error().what);
      bytes = *std::move(opened);
    }
    const format_driver driver = raw_driver();
    image_open_options options;
    options.writable = writable;
    auto image = co_await driver.open(std::move(bytes), options);
    if (!image) fail(image.error().what);
    std::vector<std::shared_ptr<layer>> layers;
    layers.push_back(std::make_shared<layer>(layer{{}, *std::move(image)}));
    const engine_resources resources{context_, buffers_, workers_};
    co_return std::make_unique<disk>(resources, std::make_unique<chain>(std::move(layers)),
                                     disk_settings{.name = name, .read_only = !writable});
  }

  executor context_;
  buffer_pool buffers_;
  worker_pool workers_;
  std::unique_ptr<file_io> files_;
  std::vector<std::unique_ptr<disk>> disks_;
};

}  // namespace

int main(int argc, char** argv) {
  const command_line asked = parse(std::span(argv, static_cast<std::size_t>(argc)).subspan(1));
  std::signal(SIGPIPE, SIG_IGN);
  boost::asio::io_context io(1);
  world served(io);
  start_task(io.get_executor(), served.serve(asked), [&io](std::exception_ptr thrown) {
    io.stop();
    if (thrown) std::rethrow_exception(thrown);
  });
  io.run();
}
