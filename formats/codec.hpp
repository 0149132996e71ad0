// Decoders and encoders of compressed units. They work on bytes only, on any thread.
#pragma once

#include "engine/base/error.hpp"
#include "engine/block/image.hpp"

#include <cstddef>
#include <memory>
#include <span>

namespace weir {

/// A raw deflate stream (RFC 1951, no zlib header) at the start of `encoded`, of which exactly
/// decoded.size() bytes are wanted. Bytes of `encoded` behind the stream are ignored.
/// Errors: corrupt_data if the stream is damaged or short.
result<void> decode_deflate(std::span<const std::byte> encoded, std::span<std::byte> decoded);

/// The same for zstd frames (RFC 8878). Windows above 128 MiB are refused as corrupt_data.
result<void> decode_zstd(std::span<const std::byte> encoded, std::span<std::byte> decoded);

/// Raw deflate streams with a window of 4 KiB, which is what readers of qcow2 count on, at zlib's default level.
std::unique_ptr<unit_encoder> make_deflate_encoder();
/// zstd frames at its default level.
std::unique_ptr<unit_encoder> make_zstd_encoder();

}  // namespace weir
