// A verb of the command line and the table of them all.
//
// To add one: write cli/NAME_verb.cpp with `verb NAME_verb()`, declare it in cli/verbs.hpp and list it in
// cli/verbs.cpp. Help text and man page come from the declaration.
#pragma once

#include "cli/option_set.hpp"
#include "engine/base/error.hpp"

#include <string_view>

namespace weir::cli {

inline constexpr int exit_done = 0;
inline constexpr int exit_failed = 1;
inline constexpr int exit_usage = 2;

struct verb {
  std::string_view name;
  std::string_view synopsis;     ///< what follows the name, e.g. "[--json] [-f FMT] IMAGE"
  std::string_view summary;      ///< one line, no full stop
  std::string_view description;  ///< paragraphs, separated by an empty line
  void (*declare)(option_set& options) = nullptr;
  /// Does the work and returns the exit code. A failure becomes the line `weir: NAME: what` on stderr and
  /// exit code 1, or 2 for a usage_failure. Output for machines goes to stdout, all else to stderr.
  outcome<int> (*run)(const given_options& given) = nullptr;
  int failed = exit_failed;      ///< exit code of a failure, where it is not 1 (`compare`)
  int wrong_usage = exit_usage;  ///< of wrong usage, where it is not 2 (`check`)
};

}  // namespace weir::cli
