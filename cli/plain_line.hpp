#pragma once

#include <string>
#include <string_view>

namespace weir::cli {

/// `text` on one line, with control characters as \n, \t or \x1b: names from image headers, XML and the wire may hold
/// what moves a terminal's cursor or looks like further lines.
std::string plain_line(std::string_view text);

}  // namespace weir::cli
