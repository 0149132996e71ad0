// The seeds of a campaign: WEIR_SEED=N begins with seed N, WEIR_RUNS=N says how many follow.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <ranges>

namespace weir::test {

inline std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

inline std::uint64_t first_seed() {
  return from_environment("WEIR_SEED", 1);
}

/// `runs` of them unless the environment says otherwise.
inline auto seeds(std::uint64_t runs) {
  const std::uint64_t first = first_seed();
  return std::views::iota(first, first + from_environment("WEIR_RUNS", runs));
}

}  // namespace weir::test
