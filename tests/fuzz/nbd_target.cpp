// One NBD client over a socket pair that sends the input, reading whatever is answered, and then hangs up.
#include "engine/block/disk.hpp"
#include "engine/nbd/connection.hpp"
#include "engine/nbd/handshake.hpp"
#include "engine/storage/memory_storage.hpp"
#include "formats/registry.hpp"
#include "tests/fuzz/fuzz_targets.hpp"
#include "tests/support/run_task.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

namespace weir::fuzz {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t disk_size = 1 * MiB;

/// The bytes alone, whatever the export: no input may be left untaken while the handshake goes on.
void feed_handshake(const nbd::export_table& exports, input_bytes input, nbd::handshake_policy policy) {
  nbd::handshake talk(exports, policy);
  while (!input.empty()) {
    if (talk.now() == nbd::handshake::phase::securing) talk.secured("client");
    if (talk.now() != nbd::handshake::phase::negotiating) return;
    const std::size_t taken = talk.feed(input);
    check(taken > 0 && taken <= input.size(), "a handshake makes progress");
    static_cast<void>(talk.take_output());
    input = input.subspan(taken);
  }
}

class nbd_machine {
 public:
  nbd_machine() {
    auto memory = std::make_unique<memory_storage>("memory", disk_size);
    auto image = test::run(io_, formats().find("raw")->open(std::move(memory), {.writable = true}));
    std::vector<std::shared_ptr<layer>> layers;
    layers.push_back(std::make_shared<layer>(layer{{}, *std::move(image)}));
    const engine_resources resources{io_.get_executor(), engine_buffers_, workers_};
    disk_ = std::make_unique<disk>(resources, std::make_unique<chain>(std::move(layers)),
                                   disk_settings{.name = "d"});
    check(exports_.add({.name = "", .description = {}, .target = disk_.get()}).has_value(), "an export");
    check(
        exports_.add({.name = "ro", .description = {}, .target = disk_.get(), .read_only = true}).has_value(),
        "an export");
  }

  void serve(input_bytes input) {
    int ends[2];
    check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0, "a socket pair");
    nbd::stream_socket socket(io_.get_executor(), boost::asio::generic::stream_protocol(AF_UNIX, 0), ends[1]);
    auto server = std::make_shared<nbd::connection>(
        std::move(socket), nbd::connection_commons{exports_, buffers_, in_flight_, report_},
        nbd::connection_settings{});
    bool ended = false;
    start_task(io_.get_executor(), server->run(), [&ended](std::exception_ptr thrown) {
      check(!thrown, "a connection throws nothing");
      ended = true;
    });
    talk(ends[0], input);
    ::close(ends[0]);
    io_.restart();
    while (!ended) io_.run_one();
    server.reset();
    check(buffers_.lent_bytes() == 0, "no buffer is lost");
  }

  void close() { check(test::run(io_, disk_->close()).has_value(), "the disk closes"); }
  const nbd::export_table& exports() const { return exports_; }

 private:
  void turn() {
    io_.restart();
    io_.poll();
  }

  void talk(int client, input_bytes input) {
    std::array<std::byte, 65536> answer;
    for (int idle = 0; idle < 3;) {
      turn();
      const ssize_t got = ::recv(client, answer.data(), answer.size(), 0);
      const bool over = got == 0 || (got < 0 && errno != EAGAIN);
      const ssize_t sent = input.empty() ? 0 : ::send(client, input.data(), input.size(), MSG_NOSIGNAL);
      if (sent > 0) input = input.subspan(static_cast<std::size_t>(sent));
      idle = got > 0 || sent > 0 ? 0 : idle + 1;
      if (over) return;
    }
  }

  boost::asio::io_context io_{1};
  buffer_pool engine_buffers_{io_.get_executor(), 64 * MiB};
  buffer_pool buffers_{io_.get_executor(), 256 * MiB};
  nbd::shared_admission in_flight_{io_.get_executor(), 64 * MiB};
  std::function<void(const failure&)> report_;
  worker_pool workers_{io_.get_executor(), 0};
  nbd::export_table exports_;
  std::unique_ptr<disk> disk_;
};

}  // namespace

void run_nbd(input_bytes input) {
  nbd_machine machine;
  nbd::access_list access;
  static_cast<void>(access.allow("client=ro"));
  feed_handshake(machine.exports(), input, {});
  feed_handshake(machine.exports(), input, {.tls = true, .access = &access});
  machine.serve(input);
  machine.close();
}

}  // namespace weir::fuzz
