// The seeds of a campaign: WEIR_SEED=N replays seed N, WEIR_RUNS=N says how many there are. Under the sanitizers fewer
// run by default: the release build runs them all.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <ranges>

namespace weir::test {

#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
inline constexpr std::uint64_t campaign_share = 4;
#else
inline constexpr std::uint64_t campaign_share = 1;
#endif

inline std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

/// `runs` of them from `first` on, unless the environment says otherwise.
inline auto seeds(std::uint64_t runs, std::uint64_t first = 1) {
  const bool replays = std::getenv("WEIR_SEED") != nullptr;
  const std::uint64_t usual = replays ? 1 : std::max<std::uint64_t>(runs / campaign_share, 1);
  first = from_environment("WEIR_SEED", first);
  return std::views::iota(first, first + from_environment("WEIR_RUNS", usual));
}

}  // namespace weir::test
