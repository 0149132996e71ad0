#include "cli/plain_line.hpp"

namespace weir::cli {

std::string plain_line(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string line;
  line.reserve(text.size());
  for (const char c : text) {
    const auto value = static_cast<unsigned char>(c);
    if (value >= 0x20 && value != 0x7f) {
      line += c;
    } else if (c == '\n') {
      line += "\\n";
    } else if (c == '\t') {
      line += "\\t";
    } else {
      line += "\\x";
      line += digits[value >> 4];
      line += digits[value & 0xf];
    }
  }
  return line;
}

}  // namespace weir::cli
