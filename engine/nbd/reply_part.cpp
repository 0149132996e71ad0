#include "engine/nbd/reply_part.hpp"

#include <utility>

namespace weir::nbd {
namespace {

/// Makes `part` a chunk whose head has room for `fixed_bytes` of payload behind the header, and returns where that
/// room is; `header.length` is the whole payload's.
std::byte* begin_chunk(reply_part& part, const reply_frame& frame, const chunk_header& header,
                       std::size_t fixed_bytes) noexcept {
  const std::size_t header_bytes = encode_chunk_header(part.head_bytes, frame, header);
  part.head_length = static_cast<std::uint8_t>(header_bytes + fixed_bytes);
  part.ends_reply = header.done;
  return part.head_bytes.data() + header_bytes;
}

}  // namespace

reply_part simple_reply(std::uint64_t cookie, wire_error error) {
  reply_part part;
  encode_simple_reply(std::span(part.head_bytes).first<simple_reply_size>(), error, cookie);
  part.head_length = simple_reply_size;
  return part;
}

reply_part error_chunk(const reply_frame& frame, wire_error error, std::string_view why) {
  const auto length = static_cast<std::uint32_t>(6 + why.size());
  reply_part part;
  std::byte* const payload = begin_chunk(part, frame, {chunk::error, true, length}, 6);
  store_big(payload, static_cast<std::uint32_t>(error));
  store_big(payload + 4, static_cast<std::uint16_t>(why.size()));
  part.body = std::as_bytes(std::span(why));
  return part;
}

reply_part empty_chunk(const reply_frame& frame) {
  reply_part part;
  begin_chunk(part, frame, {chunk::none, true, 0}, 0);
  return part;
}

reply_part data_chunk(const reply_frame& frame, std::uint64_t offset, std::span<const std::byte> data,
                      bool last) {
  const auto length = static_cast<std::uint32_t>(8 + data.size());
  reply_part part;
  std::byte* const payload = begin_chunk(part, frame, {chunk::offset_data, last, length}, 8);
  store_big(payload, offset);
  part.body = data;
  return part;
}

reply_part file_chunk(const reply_frame& frame, std::uint64_t offset, file_piece data, bool last) {
  const auto length = static_cast<std::uint32_t>(8 + data.length);
  reply_part part;
  std::byte* const payload = begin_chunk(part, frame, {chunk::offset_data, last, length}, 8);
  store_big(payload, offset);
  part.from_file = std::make_unique<file_piece>(std::move(data));
  return part;
}

reply_part hole_chunk(const reply_frame& frame, byte_range hole, bool last) {
  reply_part part;
  std::byte* const payload = begin_chunk(part, frame, {chunk::offset_hole, last, 12}, 12);
  store_big(payload, hole.offset);
  store_big(payload + 8, static_cast<std::uint32_t>(hole.length));
  return part;
}

reply_part status_chunk(const reply_frame& frame, meta_context context,
                        std::span<const status_extent> extents, bool last) {
  const std::size_t fixed_bytes = frame.extended ? 8 : 4;
  const std::size_t extent_bytes = frame.extended ? 16 : 8;
  const auto length = static_cast<std::uint32_t>(fixed_bytes + extent_bytes * extents.size());
  const chunk type = frame.extended ? chunk::block_status_extended : chunk::block_status;
  reply_part part;
  std::byte* const payload = begin_chunk(part, frame, {type, last, length}, fixed_bytes);
  store_big(payload, id_of(context));
  if (frame.extended) store_big(payload + 4, static_cast<std::uint32_t>(extents.size()));
  part.stored.resize(extent_bytes * extents.size());
  std::byte* at = part.stored.data();
  for (const status_extent& extent : extents) {
    if (frame.extended) {
      store_big(at, extent.length);
      store_big(at + 8, std::uint64_t{extent.flags});
    } else {
      store_big(at, static_cast<std::uint32_t>(extent.length));
      store_big(at + 4, extent.flags);
    }
    at += extent_bytes;
  }
  part.body = part.stored;
  return part;
}

}  // namespace weir::nbd
