// Pieces of replies as they wait to be sent: a small header and a body that is sent from where it lies.
#pragma once

#include "engine/base/buffer_pool.hpp"
#include "engine/base/range.hpp"
#include "engine/nbd/meta_context.hpp"
#include "engine/nbd/protocol.hpp"
#include "engine/storage/file_descriptor.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

namespace weir::nbd {

/// Bytes of a file that are sent without being read here. The descriptor is the piece's own.
struct file_piece {
  file_descriptor file;
  std::uint64_t offset = 0;
  std::size_t length = 0;
};

/// One reply, or one chunk of a structured reply. Chunks of one reply are queued one behind the other.
struct reply_part {
  std::array<std::byte, 44> head_bytes;
  std::uint8_t head_length = 0;
  bool ends_reply = true;          ///< the request is over once this is sent
  std::uint32_t charge_bytes = 0;  ///< with ends_reply: what the request was charged, see admission
  std::span<const std::byte> body;
  std::unique_ptr<file_piece> from_file;  ///< sent behind the head; the body is empty then
  // Owners of the body, if it is not static text; of an earlier part's body, too.
  buffer_lease lease;
  std::vector<std::byte> stored;

  std::span<const std::byte> head() const noexcept { return std::span(head_bytes).first(head_length); }
  std::size_t length() const noexcept {
    return head_length + body.size() + (from_file != nullptr ? from_file->length : 0);
  }
};

reply_part simple_reply(std::uint64_t cookie, wire_error error);
/// The last chunk of a reply that failed. `why` is static text.
reply_part error_chunk(const reply_frame& frame, wire_error error, std::string_view why);
/// An empty last chunk: success.
reply_part empty_chunk(const reply_frame& frame);
reply_part data_chunk(const reply_frame& frame, std::uint64_t offset, std::span<const std::byte> data,
                      bool last);
/// The same with the bytes of a file.
reply_part file_chunk(const reply_frame& frame, std::uint64_t offset, file_piece data, bool last);
/// Precondition: the range's length fits 32 bits and is not zero.
reply_part hole_chunk(const reply_frame& frame, byte_range hole, bool last);
/// Precondition: unless the frame is extended, the lengths fit 32 bits.
reply_part status_chunk(const reply_frame& frame, meta_context context,
                        std::span<const status_extent> extents, bool last);

}  // namespace weir::nbd
