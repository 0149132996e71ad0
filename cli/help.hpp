// `weir help`, `weir help VERB` and the man pages, all written from the verbs' declarations.
#pragma once

#include "cli/verb.hpp"

#include <span>
#include <string>

namespace weir::cli {

inline constexpr std::string_view version = WEIR_VERSION;

/// The list of verbs.
std::string overview(std::span<const verb> verbs);
std::string help_text(const verb& about);
/// roff source of weir-VERB(1).
std::string man_page(const verb& about);
/// roff source of weir(1).
std::string man_page(std::span<const verb> verbs);

}  // namespace weir::cli
