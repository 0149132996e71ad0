// Every verb of this build.
#pragma once

#include "cli/verb.hpp"

#include <span>
#include <string_view>

namespace weir::cli {

/// In the order of `weir help`.
std::span<const verb> verbs();
/// The verb called `name`, or null.
const verb* find_verb(std::string_view name);

}  // namespace weir::cli
