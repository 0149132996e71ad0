#include "engine/nbd/reply_part.hpp"

#include <utility>

namespace weir::nbd {
namespace {

/// A chunk whose head has room for `fixed_bytes` of payload behind the header; `length` is the whole payload's.
reply_part make_chunk(const chunk_header& header, std::size_t fixed_bytes) {
  reply_part part;
  encode_chunk_header(std::span(part.head_bytes).first<chunk_header_size>(), header);
  part.head_length = static_cast<std::uint8_t>(chunk_header_size + fixed_bytes);
  part.ends_reply = header.done;
  return part;
}

std::byte* payload_of(reply_part& part) noexcept {
  return part.head_bytes.data() + chunk_header_size;
}

}  // namespace

reply_part simple_reply(std::uint64_t cookie, wire_error error) {
  reply_part part;
  encode_simple_reply(std::span(part.head_bytes).first<simple_reply_size>(), error, cookie);
  part.head_length = simple_reply_size;
  return part;
}

reply_part error_chunk(std::uint64_t cookie, wire_error error, std::string_view why) {
  const auto length = static_cast<std::uint32_t>(6 + why.size());
  reply_part part = make_chunk({chunk::error, true, cookie, length}, 6);
  store_big(payload_of(part), static_cast<std::uint32_t>(error));
  store_big(payload_of(part) + 4, static_cast<std::uint16_t>(why.size()));
  part.body = std::as_bytes(std::span(why));
  return part;
}

reply_part empty_chunk(std::uint64_t cookie) {
  return make_chunk({chunk::none, true, cookie, 0}, 0);
}

reply_part data_chunk(std::uint64_t cookie, std::uint64_t offset, std::span<const std::byte> data,
                      bool last) {
  const auto length = static_cast<std::uint32_t>(8 + data.size());
  reply_part part = make_chunk({chunk::offset_data, last, cookie, length}, 8);
  store_big(payload_of(part), offset);
  part.body = data;
  return part;
}

reply_part hole_chunk(std::uint64_t cookie, byte_range hole, bool last) {
  reply_part part = make_chunk({chunk::offset_hole, last, cookie, 12}, 12);
  store_big(payload_of(part), hole.offset);
  store_big(payload_of(part) + 8, static_cast<std::uint32_t>(hole.length));
  return part;
}

reply_part status_chunk(std::uint64_t cookie, meta_context context, std::span<const status_extent> extents,
                        bool last) {
  const auto length = static_cast<std::uint32_t>(4 + 8 * extents.size());
  reply_part part = make_chunk({chunk::block_status, last, cookie, length}, 4);
  store_big(payload_of(part), id_of(context));
  part.stored.resize(8 * extents.size());
  std::byte* at = part.stored.data();
  for (const status_extent& extent : extents) {
    store_big(at, extent.length);
    store_big(at + 4, extent.flags);
    at += 8;
  }
  part.body = part.stored;
  return part;
}

}  // namespace weir::nbd
