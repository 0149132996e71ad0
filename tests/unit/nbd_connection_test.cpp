// One connection of the NBD server over a socket pair, against a disk in memory. No clock: time-outs are tested
// from outside (tests/interop).
#include "engine/nbd/connection.hpp"
#include "engine/storage/memory_storage.hpp"
#include "formats/raw/raw.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/detached.hpp>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <string_view>
#include <vector>

namespace weir::nbd {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t disk_size = 8 * MiB;

template <std::unsigned_integral T>
void put(bytes& to, T value) {
  to.resize(to.size() + sizeof value);
  store_big(to.data() + to.size() - sizeof value, value);
}

void put(bytes& to, const bytes& more) {
  to.insert(to.end(), more.begin(), more.end());
}

bytes filled(std::size_t length, unsigned value) {
  return bytes(length, static_cast<std::byte>(value));
}

bytes a_request(command code, std::uint64_t cookie, std::uint64_t offset, std::uint32_t length,
                std::uint16_t flags = 0) {
  bytes made;
  put(made, request_magic);
  put(made, flags);
  put(made, static_cast<std::uint16_t>(code));
  put(made, cookie);
  put(made, offset);
  put(made, length);
  return made;
}

bytes a_write(std::uint64_t cookie, std::uint64_t offset, const bytes& data) {
  bytes made = a_request(command::write, cookie, offset, static_cast<std::uint32_t>(data.size()));
  put(made, data);
  return made;
}

bytes an_option(option code, const bytes& data = {}) {
  bytes made;
  put(made, option_magic);
  put(made, static_cast<std::uint32_t>(code));
  put(made, static_cast<std::uint32_t>(data.size()));
  put(made, data);
  return made;
}

/// Client flags and options up to transmission on export "".
bytes opening(bool structured) {
  bytes made;
  put(made, std::uint32_t{3});
  if (structured) put(made, an_option(option::structured_reply));
  put(made, an_option(option::go, filled(6, 0)));
  return made;
}

class nbd_connection : public testing::Test {
 protected:
  nbd_connection() {
    auto bytes_of_disk = std::make_unique<memory_storage>("memory", disk_size);
    auto image = test::run(io_, raw_driver().open(std::move(bytes_of_disk), {.writable = true}));
    std::vector<std::shared_ptr<layer>> layers;
    layers.push_back(std::make_shared<layer>(layer{{}, *std::move(image)}));
    const engine_resources resources{io_.get_executor(), engine_buffers_, workers_};
    disk_ = std::make_unique<disk>(resources, std::make_unique<chain>(std::move(layers)),
                                   disk_settings{.name = "d"});
    EXPECT_TRUE(exports_.add({.name = "", .description = {}, .target = disk_.get()}).has_value());
  }

  ~nbd_connection() override {
    hang_up();
    if (connection_) finish();
    EXPECT_TRUE(test::run(io_, disk_->close()).has_value());
  }

  void connect(connection_settings settings = {}) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), 0);
    client_ = ends[0];
    stream_socket socket(io_.get_executor(), boost::asio::generic::stream_protocol(AF_UNIX, 0), ends[1]);
    connection_ = std::make_shared<connection>(
        std::move(socket), connection_commons{exports_, buffers_, in_flight_, report_}, settings);
    ended_ = false;
    start_task(io_.get_executor(), connection_->run(), [this](std::exception_ptr thrown) {
      EXPECT_FALSE(thrown);
      ended_ = true;
    });
    turn();
  }

  /// Lets the server do everything it can do now.
  void turn() {
    io_.restart();
    io_.poll();
  }

  /// Waits for the connection to end by itself.
  void finish() {
    io_.restart();
    while (!ended_) ASSERT_GT(io_.run_one(), 0U);
    connection_.reset();
    EXPECT_EQ(buffers_.lent_bytes(), 0U);
  }

  void hang_up() {
    if (client_ >= 0) ::close(std::exchange(client_, -1));
  }

  /// Returns how much the socket took, giving the server its turns.
  std::size_t send(const bytes& data) {
    std::size_t sent = 0;
    while (sent < data.size()) {
      const ssize_t count = ::send(client_, data.data() + sent, data.size() - sent, MSG_NOSIGNAL);
      turn();
      if (count > 0) {
        sent += static_cast<std::size_t>(count);
        stuck_ = 0;
      } else if (++stuck_ > 3) {
        break;
      }
    }
    return sent;
  }

  /// What the server sends until it has nothing more to say; sets at_end_ when it has closed.
  bytes receive(std::size_t piece = 1 << 16) {
    bytes all;
    bytes part(piece);
    for (int idle = 0; idle < 3;) {
      const ssize_t count = ::recv(client_, part.data(), part.size(), 0);
      if (count > 0) {
        all.insert(all.end(), part.begin(), part.begin() + count);
        idle = 0;
      } else {
        at_end_ = count == 0 || errno != EAGAIN;
        ++idle;
      }
      turn();
    }
    return all;
  }

  void open(bool structured, connection_settings settings = {}) {
    connect(settings);
    send(opening(structured));
    receive();
  }

  bytes ask(const bytes& requests) {
    EXPECT_EQ(send(requests), requests.size());
    return receive();
  }

  boost::asio::io_context io_{1};
  buffer_pool engine_buffers_{io_.get_executor(), 64 * MiB};
  buffer_pool buffers_{io_.get_executor(), 1024 * MiB};
  shared_admission in_flight_{io_.get_executor(), 256 * MiB};
  std::function<void(const failure&)> report_;
  worker_pool workers_{io_.get_executor(), 0};
  export_table exports_;
  std::unique_ptr<disk> disk_;
  std::shared_ptr<connection> connection_;
  int client_ = -1;
  int stuck_ = 0;
  bool ended_ = false;
  bool at_end_ = false;
};

bytes simple(std::uint64_t cookie, wire_error error, const bytes& data = {}) {
  bytes made(simple_reply_size);
  encode_simple_reply(std::span(made).first<simple_reply_size>(), error, cookie);
  put(made, data);
  return made;
}

TEST_F(nbd_connection, reads_back_what_it_wrote) {
  open(false);
  const bytes data = filled(70'000, 0x5a);
  EXPECT_EQ(ask(a_write(1, 12'345, data)), simple(1, wire_error::none));
  EXPECT_EQ(ask(a_request(command::read, 2, 12'345, 70'000)), simple(2, wire_error::none, data));
  EXPECT_EQ(ask(a_request(command::flush, 3, 0, 0)), simple(3, wire_error::none));
  EXPECT_EQ(ask(a_request(command::write_zeroes, 4, 12'345, 70'000)), simple(4, wire_error::none));
  EXPECT_EQ(ask(a_request(command::read, 5, 12'345, 70'000)), simple(5, wire_error::none, filled(70'000, 0)));
}

TEST_F(nbd_connection, takes_many_requests_from_one_piece_in_any_split) {
  for (const std::size_t piece :
       {std::size_t{1}, std::size_t{7}, std::size_t{1000}, std::size_t{1'000'000}}) {
    open(false);
    bytes input;
    bytes expected;
    for (unsigned index = 0; index < 40; ++index) {
      const bytes data = filled(100 + index * 10, index + 1);
      put(input, a_write(index, index * 1000, data));
      put(expected, simple(index, wire_error::none));
    }
    bytes output;
    for (std::size_t at = 0; at < input.size(); at += piece) {
      const auto end = std::min(at + piece, input.size());
      send(bytes(input.begin() + static_cast<std::ptrdiff_t>(at),
                 input.begin() + static_cast<std::ptrdiff_t>(end)));
    }
    put(output, receive());
    EXPECT_EQ(output.size(), expected.size());
    for (unsigned index = 0; index < 40; ++index) {
      const auto length = static_cast<std::uint32_t>(100 + index * 10);
      EXPECT_EQ(ask(a_request(command::read, 9, index * 1000, length)),
                simple(9, wire_error::none, filled(length, index + 1)));
    }
    hang_up();
    finish();
  }
}

TEST_F(nbd_connection, refused_writes_lose_their_payload_and_nothing_else) {
  open(false);
  bytes input = a_write(1, disk_size - 10, filled(300'000, 1));
  put(input, a_request(command::read, 2, 0, 4));
  bytes expected = simple(1, wire_error::no_space);
  put(expected, simple(2, wire_error::none, filled(4, 0)));
  EXPECT_EQ(ask(input), expected);
}

TEST_F(nbd_connection, errors_keep_the_connection) {
  open(false);
  EXPECT_EQ(ask(a_request(command::read, 1, disk_size, 1)), simple(1, wire_error::invalid));
  EXPECT_EQ(ask(a_request(static_cast<command>(99), 2, 0, 0)), simple(2, wire_error::invalid));
  EXPECT_EQ(ask(a_request(command::trim, 3, 0, 512, 0x8000)), simple(3, wire_error::invalid));
  EXPECT_EQ(ask(a_request(command::read, 4, 0, 0)), simple(4, wire_error::none));
}

TEST_F(nbd_connection, bad_magic_and_huge_payloads_close) {
  for (bytes bad :
       {a_request(command::read, 1, 0, 512), a_request(command::write, 1, 0, largest_payload + 1)}) {
    open(true);
    if (bad[7] == std::byte{0}) bad[0] ^= std::byte{1};
    EXPECT_TRUE(ask(bad).empty());
    EXPECT_TRUE(at_end_);
    hang_up();
    finish();
  }
}

TEST_F(nbd_connection, structured_reads_carry_holes_and_errors_carry_words) {
  open(true);
  const bytes data = filled(65'536, 3);
  ask(a_write(1, 131'072, data));
  bytes zero(32);
  encode_chunk_header(zero, {.cookie = 2}, {chunk::offset_hole, true, 12});
  store_big(zero.data() + 20, std::uint64_t{0});
  store_big(zero.data() + 28, std::uint32_t{65'536});
  EXPECT_EQ(ask(a_request(command::read, 2, 0, 65'536)), zero);
  const bytes mixed = ask(a_request(command::read, 3, 65'536, 131'072));
  ASSERT_EQ(mixed.size(), 32U + 28 + 65'536);
  EXPECT_EQ(load_big<std::uint16_t>(mixed.data() + 4), 0U);
  EXPECT_EQ(load_big<std::uint16_t>(mixed.data() + 6), static_cast<std::uint16_t>(chunk::offset_hole));
  EXPECT_EQ(load_big<std::uint16_t>(mixed.data() + 36), chunk_done);
  EXPECT_EQ(load_big<std::uint16_t>(mixed.data() + 38), static_cast<std::uint16_t>(chunk::offset_data));
  EXPECT_EQ(bytes(mixed.begin() + 60, mixed.end()), data);
  const bytes whole = ask(a_request(command::read, 4, 65'536, 131'072, command_flag::df));
  EXPECT_EQ(whole.size(), 28U + 131'072);
  const bytes error = ask(a_request(command::read, 5, disk_size, 1));
  EXPECT_EQ(load_big<std::uint16_t>(error.data() + 6), static_cast<std::uint16_t>(chunk::error));
  EXPECT_EQ(load_big<std::uint32_t>(error.data() + 20), static_cast<std::uint32_t>(wire_error::invalid));
}

TEST_F(nbd_connection, replies_keep_their_data_until_they_are_sent) {
  for (const bool structured : {false, true}) {
    open(structured);
    bytes requests;
    for (unsigned index = 1; index <= 32; ++index) {
      ask(a_write(index, index * 4096, filled(4096, index)));
      put(requests, a_request(command::read, index, index * 4096, 4096));
    }
    const std::size_t head = structured ? chunk_header_size + 8 : simple_reply_size;
    const bytes output = ask(requests);
    ASSERT_EQ(output.size(), 32 * (head + 4096));
    for (std::size_t at = 0; at < output.size(); at += head + 4096) {
      const auto cookie = load_big<std::uint64_t>(output.data() + at + 8);
      const bytes data(output.data() + at + head, output.data() + at + head + 4096);
      EXPECT_EQ(data, filled(4096, static_cast<unsigned>(cookie)));
    }
    hang_up();
    finish();
  }
}

TEST_F(nbd_connection, large_replies_survive_partial_sends) {
  open(false);
  bytes content(4 * MiB);
  for (std::size_t index = 0; index < content.size(); ++index)
    content[index] = static_cast<std::byte>(index * 7 >> 3);
  ask(a_write(1, 0, content));
  bytes requests;
  for (std::uint64_t cookie = 0; cookie < 3; ++cookie)
    put(requests, a_request(command::read, cookie, 0, 4 * MiB));
  send(requests);
  const bytes output = receive(10'000);
  ASSERT_EQ(output.size(), 3 * (16 + content.size()));
  for (std::size_t index = 0; index < 3; ++index) {
    const std::byte* const at = output.data() + index * (16 + content.size());
    EXPECT_TRUE(std::equal(content.begin(), content.end(), at + 16));
  }
}

TEST_F(nbd_connection, a_peer_that_never_reads_costs_a_constant) {
  connection_settings settings;
  settings.limits = {.requests = 16, .bytes = 1 * MiB};
  open(false, settings);
  bytes flood;
  for (std::uint64_t cookie = 0; cookie < 100'000; ++cookie)
    put(flood, a_request(command::read, cookie, 0, 64 * KiB));
  const std::size_t taken = send(flood);
  EXPECT_LT(taken, flood.size());
  EXPECT_LE(buffers_.lent_bytes(), 1 * MiB);
  EXPECT_GT(buffers_.lent_bytes(), 0U);
  const bytes errors_flood = a_request(static_cast<command>(77), 0, 0, 0);
  EXPECT_LT(send(errors_flood), errors_flood.size());
  // Once it reads, everything is answered in full.
  EXPECT_GT(receive().size(), 16 * 64 * KiB);
}

TEST_F(nbd_connection, a_request_larger_than_the_limit_is_served_alone) {
  connection_settings settings;
  settings.limits = {.requests = 16, .bytes = 64 * KiB};
  open(false, settings);
  const bytes data = filled(1 * MiB, 9);
  bytes input = a_write(1, 0, data);
  put(input, a_request(command::read, 2, 0, 1 << 20));
  bytes expected = simple(1, wire_error::none);
  put(expected, simple(2, wire_error::none, data));
  EXPECT_EQ(ask(input), expected);
}

// Ends.

TEST_F(nbd_connection, a_payload_counts_from_its_announcement_until_its_sender_is_gone) {
  open(false);
  EXPECT_TRUE(ask(a_request(command::write, 1, 0, 1 << 20)).empty());
  EXPECT_EQ(in_flight_.bytes(), 1 * MiB);
  hang_up();
  finish();
  EXPECT_EQ(in_flight_.bytes(), 0U);
}

TEST_F(nbd_connection, others_that_use_up_the_common_limit_delay_long_requests_only) {
  open(false);
  in_flight_.enter(256 * MiB);
  EXPECT_EQ(ask(a_request(command::read, 1, 0, 1 << 20)), simple(1, wire_error::none, filled(1 << 20, 0)));
  EXPECT_TRUE(ask(a_request(command::read, 2, 0, 4 << 20)).empty());
  in_flight_.leave(256 * MiB);
  EXPECT_EQ(receive(), simple(2, wire_error::none, filled(4 << 20, 0)));
}

TEST_F(nbd_connection, who_waits_for_the_common_limit_can_be_ended) {
  open(false);
  in_flight_.enter(256 * MiB);
  EXPECT_TRUE(ask(a_request(command::read, 1, 0, 4 << 20)).empty());
  connection_->abandon();
  finish();
  in_flight_.leave(256 * MiB);
}

TEST_F(nbd_connection, a_disconnect_at_any_byte_leaves_nothing_behind) {
  bytes conversation = opening(true);
  put(conversation, a_write(1, 0, filled(100, 1)));
  put(conversation, a_request(command::read, 2, 0, 64 * KiB));
  put(conversation, a_request(command::disconnect, 0, 0, 0));
  for (std::size_t length = 0; length <= conversation.size(); ++length) {
    for (const bool reads : {true, false}) {
      connect();
      send(bytes(conversation.begin(), conversation.begin() + static_cast<std::ptrdiff_t>(length)));
      if (reads) receive();
      hang_up();
      finish();
    }
  }
}

TEST_F(nbd_connection, disconnect_waits_for_what_is_in_flight) {
  open(false);
  test::run(io_, disk_->drain());
  bytes input = a_write(1, 0, filled(512, 1));
  put(input, a_request(command::read, 2, 4096, 512));
  put(input, a_request(command::disconnect, 0, 0, 0));
  put(input, a_request(command::read, 3, 4096, 512));
  EXPECT_TRUE(ask(input).empty());
  EXPECT_FALSE(at_end_);
  disk_->resume();
  bytes expected = simple(1, wire_error::none);
  put(expected, simple(2, wire_error::none, filled(512, 0)));
  EXPECT_EQ(receive().size(), expected.size());
  EXPECT_TRUE(at_end_);
  finish();
}

TEST_F(nbd_connection, shutdown_answers_what_is_in_flight_and_refuses_the_rest) {
  open(false);
  test::run(io_, disk_->drain());
  EXPECT_TRUE(ask(a_write(1, 0, filled(512, 1))).empty());
  // Arrives, but is not looked at before the shutdown begins.
  const bytes late = a_write(2, 0, filled(512, 2));
  ASSERT_EQ(::send(client_, late.data(), late.size(), 0), static_cast<ssize_t>(late.size()));
  connection_->begin_shutdown();
  EXPECT_EQ(receive(), simple(2, wire_error::shutdown));
  EXPECT_FALSE(at_end_);
  disk_->resume();
  EXPECT_EQ(receive(), simple(1, wire_error::none));
  EXPECT_TRUE(at_end_);
  finish();
}

TEST_F(nbd_connection, shutdown_ends_idle_connections_and_handshakes_at_once) {
  open(true);
  connection_->begin_shutdown();
  receive();
  EXPECT_TRUE(at_end_);
  finish();
  hang_up();
  connect();
  send(filled(3, 0));
  connection_->begin_shutdown();
  receive();
  EXPECT_TRUE(at_end_);
  finish();
}

TEST_F(nbd_connection, abandoning_drops_replies_nobody_reads) {
  open(false);
  bytes flood;
  for (std::uint64_t cookie = 0; cookie < 100; ++cookie)
    put(flood, a_request(command::read, cookie, 0, 1 << 20));
  send(flood);
  connection_->abandon();
  finish();
}

}  // namespace
}  // namespace weir::nbd
