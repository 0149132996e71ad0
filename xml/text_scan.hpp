// One pass over a document's text for what the parser does not tell or check: where <disk> elements end, how deep
// elements nest, undefined entities, text outside the root. Runs after the parser accepted the text.
#pragma once

#include "xml/problem_log.hpp"

#include <cstddef>
#include <map>
#include <optional>
#include <string_view>

namespace weir::xml {

inline constexpr std::size_t max_document_bytes = std::size_t{16} << 20;
inline constexpr std::size_t max_depth = 512;
inline constexpr std::size_t max_attributes = 256;  ///< of one element

struct text_scan {
  std::optional<problem> wrong;
  std::map<std::size_t, std::size_t> disk_ends;  ///< offset of '<' → offset behind the element
};

text_scan scan_text(std::string_view text);

}  // namespace weir::xml
