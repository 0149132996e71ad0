#include "cli/human_size.hpp"

#include <array>
#include <cstdio>

namespace weir::cli {

std::string human_size(std::uint64_t bytes) {
  constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  // qemu-img goes to the next unit at 1000, so that three digits are enough.
  while (value >= 1000 && unit + 1 < units.size()) {
    value /= 1024;
    ++unit;
  }
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%0.3g %s", value, units[unit]);
  return text.data();
}

}  // namespace weir::cli
