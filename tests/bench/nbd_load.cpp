// Load for NBD servers: `nbd_load SOCKET EXPORT read|randread|randwrite LENGTH DEPTH CONNECTIONS MILLISECONDS [SEED]`.
//
// Keeps DEPTH requests of LENGTH bytes in flight, spread over CONNECTIONS unix connections with a thread each, and
// prints one JSON object: requests, seconds, median and 99th percentile of the latency in µs. Structured replies are
// asked for, as guests and libnbd do. It costs little itself: whatever has arrived is taken with one call, and the
// requests that follow leave together. A reply with an error, or anything malformed, ends it with exit code 1.
#include "engine/base/endian.hpp"

#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace weir::bench {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::size_t receive_bytes = std::size_t{4} << 20;
constexpr int socket_buffer_bytes = 4 << 20;
constexpr std::uint32_t request_magic = 0x25609513;
constexpr std::uint32_t simple_magic = 0x67446698;
constexpr std::uint32_t chunk_magic = 0x668e33ef;
constexpr std::uint16_t read_command = 0;
constexpr std::uint16_t write_command = 1;
constexpr std::uint16_t offset_data = 1;
constexpr std::uint16_t offset_hole = 2;
constexpr std::uint32_t option_export_name_go = 7;
constexpr std::uint32_t option_structured = 8;

[[noreturn]] void give_up(const std::string& why) {
  throw std::runtime_error(why);
}

struct settings {
  std::string socket;
  std::string export_name;
  bool random = false;
  bool writes = false;
  std::uint32_t length = 4096;
  unsigned depth = 32;
  unsigned connections = 1;
  std::chrono::milliseconds duration{1000};
  std::uint64_t seed = 1;
};

/// Latencies in classes an eighth of a power of two wide.
class histogram {
 public:
  void add(std::uint64_t ns) noexcept { ++counts_[class_of(ns)]; }
  void add(const histogram& other) noexcept {
    for (std::size_t at = 0; at < counts_.size(); ++at) counts_[at] += other.counts_[at];
  }
  double percentile_us(double share) const noexcept {
    std::uint64_t total = 0;
    for (const std::uint64_t count : counts_) total += count;
    auto left = static_cast<std::uint64_t>(static_cast<double>(total) * share);
    for (std::size_t at = 0; at < counts_.size(); ++at) {
      if (left < counts_[at]) return static_cast<double>((8 + at % 8) << (at / 8)) / 8 / 1000;
      left -= counts_[at];
    }
    return 0;
  }

 private:
  static std::size_t class_of(std::uint64_t ns) noexcept {
    const std::uint64_t value = std::max<std::uint64_t>(ns, 1) * 8;
    const auto power = static_cast<std::size_t>(std::bit_width(value)) - 4;
    return power * 8 + static_cast<std::size_t>(value >> power) % 8;
  }
  std::array<std::uint64_t, 512> counts_{};
};

class connection {
 public:
  connection(const settings& how, unsigned index)
      : how_(how), random_(how.seed * 1000 + index), incoming_(receive_bytes), sent_at_(how.depth) {
    socket_ = ::socket(AF_UNIX, SOCK_STREAM, 0);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (how.socket.size() >= sizeof address.sun_path) give_up("the socket's name is too long");
    std::memcpy(address.sun_path, how.socket.data(), how.socket.size());
    for (const int option : {SO_SNDBUF, SO_RCVBUF}) {
      ::setsockopt(socket_, SOL_SOCKET, option, &socket_buffer_bytes, sizeof socket_buffer_bytes);
    }
    if (::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
      give_up("connect: " + std::string(std::strerror(errno)));
    negotiate();
    if (how.length > size_) give_up("the export is too small");
    payload_.assign(how.length, std::byte{0x5a});
    next_sequential_ = size_ / how.connections * index / how.length * how.length;
  }
  connection(const connection&) = delete;
  connection& operator=(const connection&) = delete;
  ~connection() { ::close(socket_); }

  void run(unsigned depth) {
    const clock::time_point end = clock::now() + how_.duration;
    now_ = clock::now();
    for (unsigned slot = 0; slot < depth; ++slot) ask(slot);
    send_asked();
    while (in_flight_ > 0) {
      take_replies();
      if (now_ < end) {
        for (const unsigned slot : answered_) ask(slot);
        send_asked();
      }
      answered_.clear();
    }
  }

  const histogram& latencies() const noexcept { return latencies_; }
  std::uint64_t requests() const noexcept { return requests_; }

 private:
  void send_all(std::span<const std::byte> bytes) const {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent <= 0) give_up("send: " + std::string(std::strerror(errno)));
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
  }
  std::vector<std::byte> receive(std::size_t length) const {
    std::vector<std::byte> bytes(length);
    for (std::size_t have = 0; have < length;) {
      const ssize_t got = ::recv(socket_, bytes.data() + have, length - have, 0);
      if (got <= 0) give_up("the server ended the handshake");
      have += static_cast<std::size_t>(got);
    }
    return bytes;
  }

  template <class T>
  static void put(std::vector<std::byte>& to, T value) {
    to.resize(to.size() + sizeof value);
    store_big(to.data() + to.size() - sizeof value, value);
  }

  void send_option(std::uint32_t code, std::span<const std::byte> data) const {
    std::vector<std::byte> bytes;
    put(bytes, std::uint64_t{0x49484156454f5054});
    put(bytes, code);
    put(bytes, static_cast<std::uint32_t>(data.size()));
    bytes.insert(bytes.end(), data.begin(), data.end());
    send_all(bytes);
  }
  /// Type and data of one reply to an option.
  std::pair<std::uint32_t, std::vector<std::byte>> receive_reply() const {
    const std::vector<std::byte> head = receive(20);
    return {load_big<std::uint32_t>(head.data() + 12), receive(load_big<std::uint32_t>(head.data() + 16))};
  }

  void negotiate() {
    receive(18);
    std::vector<std::byte> flags;
    put(flags, std::uint32_t{3});
    send_all(flags);
    send_option(option_structured, {});
    receive_reply();
    std::vector<std::byte> wanted;
    put(wanted, static_cast<std::uint32_t>(how_.export_name.size()));
    const auto name = std::as_bytes(std::span(how_.export_name));
    wanted.insert(wanted.end(), name.begin(), name.end());
    put(wanted, std::uint16_t{0});
    send_option(option_export_name_go, wanted);
    for (;;) {
      const auto [type, data] = receive_reply();
      if (type == 1) return;
      if (type != 3) give_up("the server refuses the export");
      if (load_big<std::uint16_t>(data.data()) == 0) size_ = load_big<std::uint64_t>(data.data() + 2);
    }
  }

  std::uint64_t draw_offset() {
    if (how_.random) return random_() % (size_ / how_.length) * how_.length;
    if (next_sequential_ + how_.length > size_) next_sequential_ = 0;
    return std::exchange(next_sequential_, next_sequential_ + how_.length);
  }

  void ask(unsigned slot) {
    put(outgoing_, request_magic);
    put(outgoing_, std::uint16_t{0});
    put(outgoing_, how_.writes ? write_command : read_command);
    put(outgoing_, std::uint64_t{slot});
    put(outgoing_, draw_offset());
    put(outgoing_, how_.length);
    if (how_.writes) outgoing_.insert(outgoing_.end(), payload_.begin(), payload_.end());
    sent_at_[slot] = now_;
    ++in_flight_;
  }
  void send_asked() {
    send_all(outgoing_);
    outgoing_.clear();
  }

  /// Takes what has arrived, at least one byte of it.
  void take_replies() {
    const std::span<std::byte> room = std::span(incoming_).subspan(have_);
    const ssize_t got = ::recv(socket_, room.data(), room.size(), 0);
    if (got <= 0) give_up("the server ended the connection");
    have_ += static_cast<std::size_t>(got);
    now_ = clock::now();
    std::span<const std::byte> rest = std::span(incoming_).first(have_);
    for (;;) {
      const std::size_t skipped = std::min(rest.size(), skip_);
      skip_ -= skipped;
      rest = rest.subspan(skipped);
      if (skip_ == 0 && ended_) end(*std::exchange(ended_, std::nullopt));
      const std::size_t taken = skip_ > 0 ? 0 : take_head(rest);
      if (taken == 0) break;
      rest = rest.subspan(taken);
    }
    have_ = rest.size();
    std::memmove(incoming_.data(), rest.data(), rest.size());
  }

  /// Length of the head at the start of `bytes`, 0 if it is not whole; notes what to skip and which request ends.
  std::size_t take_head(std::span<const std::byte> bytes) {
    if (bytes.size() < 16) return 0;
    const auto magic = load_big<std::uint32_t>(bytes.data());
    if (magic == simple_magic) {
      if (load_big<std::uint32_t>(bytes.data() + 4) != 0) give_up("a request failed");
      ended_ = slot_of(bytes);
      skip_ = how_.writes ? 0 : how_.length;
      return 16;
    }
    if (magic != chunk_magic) give_up("not a reply");
    if (bytes.size() < 20) return 0;
    const auto type = load_big<std::uint16_t>(bytes.data() + 6);
    if (type != 0 && type != offset_data && type != offset_hole) give_up("a request failed");
    if ((load_big<std::uint16_t>(bytes.data() + 4) & 1) != 0) ended_ = slot_of(bytes);
    skip_ = load_big<std::uint32_t>(bytes.data() + 16);
    return 20;
  }

  unsigned slot_of(std::span<const std::byte> head) const {
    const auto cookie = load_big<std::uint64_t>(head.data() + 8);
    if (cookie >= sent_at_.size()) give_up("an unknown cookie");
    return static_cast<unsigned>(cookie);
  }

  void end(unsigned slot) {
    latencies_.add(static_cast<std::uint64_t>((now_ - sent_at_[slot]).count()));
    ++requests_;
    --in_flight_;
    answered_.push_back(slot);
  }

  const settings& how_;
  std::mt19937_64 random_;
  int socket_ = -1;
  std::uint64_t size_ = 0;
  std::uint64_t next_sequential_ = 0;
  std::vector<std::byte> payload_;
  std::vector<std::byte> outgoing_;
  std::vector<std::byte> incoming_;
  std::size_t have_ = 0;           // bytes of incoming_ not looked at yet
  std::size_t skip_ = 0;           // bytes to come that are data
  std::optional<unsigned> ended_;  // the request that ends with them
  std::vector<clock::time_point> sent_at_;
  std::vector<unsigned> answered_;
  unsigned in_flight_ = 0;
  clock::time_point now_;
  histogram latencies_;
  std::uint64_t requests_ = 0;
};

template <class T>
T number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) give_up("not a number: " + std::string(text));
  return value;
}

settings read_settings(std::span<char* const> words) {
  if (words.size() != 8 && words.size() != 9)
    give_up(
        "usage: nbd_load SOCKET EXPORT read|randread|randwrite LENGTH DEPTH CONNECTIONS MILLISECONDS [SEED]");
  settings how;
  how.socket = words[1];
  how.export_name = words[2];
  const std::string_view kind = words[3];
  if (kind != "read" && kind != "randread" && kind != "randwrite")
    give_up("unknown load " + std::string(kind));
  how.random = kind != "read";
  how.writes = kind == "randwrite";
  how.length = number<std::uint32_t>(words[4]);
  how.depth = number<unsigned>(words[5]);
  how.connections = number<unsigned>(words[6]);
  how.duration = std::chrono::milliseconds(number<unsigned>(words[7]));
  if (words.size() == 9) how.seed = number<std::uint64_t>(words[8]);
  if (how.length == 0 || how.connections == 0 || how.depth < how.connections) give_up("nothing to do");
  return how;
}

void run(const settings& how) {
  std::vector<std::unique_ptr<connection>> all;
  for (unsigned index = 0; index < how.connections; ++index)
    all.push_back(std::make_unique<connection>(how, index));
  const clock::time_point start = clock::now();
  std::vector<std::exception_ptr> thrown(how.connections);
  {
    std::vector<std::jthread> threads;
    for (unsigned index = 0; index < how.connections; ++index) {
      threads.emplace_back([&, index] {
        try {
          all[index]->run(how.depth / how.connections);
        } catch (...) {
          thrown[index] = std::current_exception();
        }
      });
    }
  }
  const std::chrono::duration<double> took = clock::now() - start;
  for (const std::exception_ptr& each : thrown) {
    if (each) std::rethrow_exception(each);
  }
  histogram latencies;
  std::uint64_t requests = 0;
  for (const auto& each : all) {
    latencies.add(each->latencies());
    requests += each->requests();
  }
  std::printf("{\"requests\": %llu, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n",
              static_cast<unsigned long long>(requests), took.count(), latencies.percentile_us(0.5),
              latencies.percentile_us(0.99));
}

}  // namespace
}  // namespace weir::bench

int main(int count, char** words) {
  try {
    weir::bench::run(weir::bench::read_settings({words, static_cast<std::size_t>(count)}));
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "nbd_load: %s\n", error.what());
    return 1;
  }
}
