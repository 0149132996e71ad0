// What is wrong with a document, and where: the first finding counts.
#pragma once

#include <pugixml.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <utility>

namespace weir::xml {

struct problem {
  std::ptrdiff_t offset = 0;  ///< of the element's '<' in the document's text; < 0: unknown
  std::string what;
};

class problem_log {
 public:
  /// `disk` is named in front of every later finding; empty = none.
  void enter(std::string disk) { disk_ = std::move(disk); }

  void add(pugi::xml_node at, std::string what) {
    if (first_) return;
    if (!disk_.empty()) what.insert(0, "disk '" + disk_ + "': ");
    first_ = problem{.offset = at.offset_debug() - 1, .what = std::move(what)};
  }

  const std::optional<problem>& first() const noexcept { return first_; }

 private:
  std::string disk_;
  std::optional<problem> first_;
};

}  // namespace weir::xml
