// The NBD wire format: constants and header codecs. Source: the NBD specification (NetworkBlockDevice/nbd,
// doc/proto.md); section names below are its own. Everything on the wire is big-endian.
#pragma once

#include "engine/base/endian.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace weir::nbd {

// "Newstyle negotiation", "Fixed newstyle negotiation".
inline constexpr std::uint64_t greeting_magic = 0x4e42444d41474943;  // "NBDMAGIC"
inline constexpr std::uint64_t option_magic = 0x49484156454f5054;    // "IHAVEOPT"
inline constexpr std::uint64_t option_reply_magic = 0x0003e889045565a9;
inline constexpr std::uint16_t handshake_fixed_newstyle = 1;
inline constexpr std::uint16_t handshake_no_zeroes = 2;
inline constexpr std::size_t greeting_size = 18;
inline constexpr std::size_t client_flags_size = 4;
inline constexpr std::size_t option_header_size = 16;
inline constexpr std::size_t option_reply_header_size = 20;
/// Zero bytes behind the answer to EXPORT_NAME, unless NO_ZEROES was negotiated.
inline constexpr std::size_t export_name_padding = 124;

/// "Values": strings are at most this long.
inline constexpr std::uint32_t longest_string = 4096;

/// "Option types".
enum class option : std::uint32_t {
  export_name = 1,
  abort = 2,
  list = 3,
  starttls = 5,
  info = 6,
  go = 7,
  structured_reply = 8,
  list_meta_context = 9,
  set_meta_context = 10,
  extended_headers = 11,
};

/// "Option reply types".
enum class option_reply : std::uint32_t {
  ack = 1,
  server = 2,
  info = 3,
  meta_context = 4,
  unsupported = 0x80000001,
  policy = 0x80000002,
  invalid = 0x80000003,
  platform = 0x80000004,
  tls_required = 0x80000005,
  unknown = 0x80000006,
  shutdown = 0x80000007,
  block_size_required = 0x80000008,
  too_big = 0x80000009,
  extended_required = 0x8000000a,
};

/// Items of INFO and GO.
enum class info_item : std::uint16_t { export_facts = 0, name = 1, description = 2, block_size = 3 };

/// "Transmission flags".
namespace transmission {
inline constexpr std::uint16_t has_flags = 1 << 0;
inline constexpr std::uint16_t read_only = 1 << 1;
inline constexpr std::uint16_t flush = 1 << 2;
inline constexpr std::uint16_t fua = 1 << 3;
inline constexpr std::uint16_t trim = 1 << 5;
inline constexpr std::uint16_t write_zeroes = 1 << 6;
inline constexpr std::uint16_t df = 1 << 7;
inline constexpr std::uint16_t multi_conn = 1 << 8;
inline constexpr std::uint16_t cache = 1 << 10;
inline constexpr std::uint16_t fast_zero = 1 << 11;
inline constexpr std::uint16_t block_status_payload = 1 << 12;
}  // namespace transmission

// "Transmission".
inline constexpr std::uint32_t request_magic = 0x25609513;
inline constexpr std::uint32_t simple_reply_magic = 0x67446698;
inline constexpr std::uint32_t chunk_magic = 0x668e33ef;
inline constexpr std::uint32_t extended_request_magic = 0x21e41c71;
inline constexpr std::uint32_t extended_chunk_magic = 0x6e8a278c;
inline constexpr std::size_t request_size = 28;
inline constexpr std::size_t extended_request_size = 32;
inline constexpr std::size_t simple_reply_size = 16;
inline constexpr std::size_t chunk_header_size = 20;
inline constexpr std::size_t extended_chunk_header_size = 32;

/// Largest payload of a request or reply that this server offers (info item BLOCK_SIZE).
inline constexpr std::uint32_t largest_payload = 32U << 20;

/// "Request types".
enum class command : std::uint16_t {
  read = 0,
  write = 1,
  disconnect = 2,
  flush = 3,
  trim = 4,
  cache = 5,
  write_zeroes = 6,
  block_status = 7,
};

/// "Command flags".
namespace command_flag {
inline constexpr std::uint16_t fua = 1 << 0;
inline constexpr std::uint16_t no_hole = 1 << 1;
inline constexpr std::uint16_t df = 1 << 2;
inline constexpr std::uint16_t request_one = 1 << 3;
inline constexpr std::uint16_t fast_zero = 1 << 4;
/// Extended requests: `length` bytes follow the header.
inline constexpr std::uint16_t payload_length = 1 << 5;
}  // namespace command_flag

/// "Structured reply types".
enum class chunk : std::uint16_t {
  none = 0,
  offset_data = 1,
  offset_hole = 2,
  block_status = 5,
  block_status_extended = 6,
  error = 0x8001,
};
inline constexpr std::uint16_t chunk_done = 1;

/// "Error values": the only ones that are sent.
enum class wire_error : std::uint32_t {
  none = 0,
  not_permitted = 1,
  io = 5,
  no_memory = 12,
  invalid = 22,
  no_space = 28,
  overflow = 75,
  not_supported = 95,
  shutdown = 108,
};

/// Extent flags of base:allocation.
inline constexpr std::uint32_t state_hole = 1;
inline constexpr std::uint32_t state_zero = 2;
/// Extent flag of qemu:dirty-bitmap:NAME.
inline constexpr std::uint32_t state_dirty = 1;

struct option_header {
  std::uint64_t magic = 0;
  std::uint32_t code = 0;
  std::uint32_t length = 0;
};

inline option_header decode_option_header(std::span<const std::byte, option_header_size> from) noexcept {
  return {load_big<std::uint64_t>(from.data()), load_big<std::uint32_t>(from.data() + 8),
          load_big<std::uint32_t>(from.data() + 12)};
}

/// A compact or extended request. `code` and `flags` are the client's and may hold anything.
struct request {
  std::uint32_t magic = 0;
  std::uint16_t flags = 0;
  std::uint16_t code = 0;
  std::uint64_t cookie = 0;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

inline request decode_request(std::span<const std::byte, request_size> from) noexcept {
  const std::byte* const at = from.data();
  return {load_big<std::uint32_t>(at),      load_big<std::uint16_t>(at + 4),
          load_big<std::uint16_t>(at + 6),  load_big<std::uint64_t>(at + 8),
          load_big<std::uint64_t>(at + 16), load_big<std::uint32_t>(at + 24)};
}

inline request decode_extended_request(std::span<const std::byte, extended_request_size> from) noexcept {
  request decoded = decode_request(from.first<request_size>());
  decoded.length = load_big<std::uint64_t>(from.data() + 24);
  return decoded;
}

inline void encode_simple_reply(std::span<std::byte, simple_reply_size> to, wire_error error,
                                std::uint64_t cookie) noexcept {
  store_big(to.data(), simple_reply_magic);
  store_big(to.data() + 4, static_cast<std::uint32_t>(error));
  store_big(to.data() + 8, cookie);
}

/// Which request a chunk answers, and in which form.
struct reply_frame {
  std::uint64_t cookie = 0;
  std::uint64_t offset = 0;  ///< the request's
  bool extended = false;
};

struct chunk_header {
  chunk type = chunk::none;
  bool done = false;
  std::uint32_t length = 0;  ///< bytes that follow the header
};

/// Returns the header's size. Precondition: `to` has room for either form.
inline std::size_t encode_chunk_header(std::span<std::byte> to, const reply_frame& frame,
                                       const chunk_header& header) noexcept {
  store_big(to.data(), frame.extended ? extended_chunk_magic : chunk_magic);
  store_big(to.data() + 4, header.done ? chunk_done : std::uint16_t{0});
  store_big(to.data() + 6, static_cast<std::uint16_t>(header.type));
  store_big(to.data() + 8, frame.cookie);
  if (!frame.extended) {
    store_big(to.data() + 16, header.length);
    return chunk_header_size;
  }
  store_big(to.data() + 16, frame.offset);
  store_big(to.data() + 24, std::uint64_t{header.length});
  return extended_chunk_header_size;
}

}  // namespace weir::nbd
