#include "cli/verbs.hpp"

namespace weir::cli {

std::span<const verb> verbs() {
  return {};
}

const verb* find_verb(std::string_view name) {
  for (const verb& candidate : verbs()) {
    if (candidate.name == name) return &candidate;
  }
  return nullptr;
}

}  // namespace weir::cli
