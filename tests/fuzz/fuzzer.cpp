// libFuzzer's entry: `weir_fuzz --target=NAME [libFuzzer's options] CORPUS…`.
#include "tests/fuzz/fuzz_targets.hpp"

#include <cstdint>
#include <cstring>

namespace {

const weir::fuzz::fuzz_target* chosen = nullptr;

}  // namespace

extern "C" int LLVMFuzzerInitialize(int* count, char*** words) {
  constexpr std::string_view option = "--target=";
  for (int at = 1; at < *count; ++at) {
    const std::string_view word = (*words)[at];
    if (!word.starts_with(option)) continue;
    for (const auto& each : weir::fuzz::fuzz_targets) {
      if (each.name == word.substr(option.size())) chosen = &each;
    }
  }
  if (chosen != nullptr) return 0;
  std::fputs("weir_fuzz: --target= wants one of:", stderr);
  for (const auto& each : weir::fuzz::fuzz_targets) {
    std::fprintf(stderr, " %.*s", static_cast<int>(each.name.size()), each.name.data());
  }
  std::fputc('\n', stderr);
  std::exit(2);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t length) {
  chosen->run({reinterpret_cast<const std::byte*>(data), length});
  return 0;
}
