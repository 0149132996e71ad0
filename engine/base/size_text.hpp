// Sizes as people type them.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace weir {

/// "4096", "64K", "1M", "2G", "1T" in bytes; suffixes are binary, either case, one letter. Nothing where the
/// text is anything else (signs, spaces, fractions, "KiB") or the size does not fit 64 bits.
std::optional<std::uint64_t> parse_size(std::string_view text) noexcept;

}  // namespace weir
