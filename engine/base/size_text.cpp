#include "engine/base/size_text.hpp"

#include "engine/base/range.hpp"

#include <charconv>
#include <system_error>

namespace weir {
namespace {

std::optional<std::uint64_t> unit_bytes(char suffix) noexcept {
  switch (suffix) {
    case 'K':
    case 'k':
      return KiB;
    case 'M':
    case 'm':
      return MiB;
    case 'G':
    case 'g':
      return GiB;
    case 'T':
    case 't':
      return TiB;
    default:
      return std::nullopt;
  }
}

}  // namespace

std::optional<std::uint64_t> parse_size(std::string_view text) noexcept {
  std::uint64_t count = 0;
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, count);
  if (error != std::errc{}) return std::nullopt;
  if (stopped == end) return count;
  const std::optional<std::uint64_t> unit = unit_bytes(*stopped);
  if (!unit || stopped + 1 != end) return std::nullopt;
  return checked_multiply(count, *unit);
}

}  // namespace weir
