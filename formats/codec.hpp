// Decoders of compressed units: pure functions over bytes, safe on any thread.
#pragma once

#include "engine/base/error.hpp"

#include <cstddef>
#include <span>

namespace weir {

/// A raw deflate stream (RFC 1951, no zlib header) at the start of `encoded`, of which exactly
/// decoded.size() bytes are wanted. Bytes of `encoded` behind the stream are ignored.
/// Errors: corrupt_data if the stream is damaged or short.
result<void> decode_deflate(std::span<const std::byte> encoded, std::span<std::byte> decoded);

/// The same for zstd frames (RFC 8878). Windows above 128 MiB are refused as corrupt_data.
result<void> decode_zstd(std::span<const std::byte> encoded, std::span<std::byte> decoded);

}  // namespace weir
