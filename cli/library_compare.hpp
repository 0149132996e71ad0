// One layer as weir reads it against the same layer as libqcow reads it.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/disk.hpp"

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace weir::cli {

struct library_verdict {
  std::uint64_t compared_bytes = 0;
  std::optional<std::uint64_t> difference;  ///< offset of the first byte that differs
  std::vector<std::string>
      not_judged;  ///< what libqcow gets wrong or refuses; empty: everything was compared
};

/// Told bytes done and in all; false ends the comparison with errc::cancelled.
using compare_progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

/// Precondition: `of` has one layer, open through weir's own code. Errors: what weir cannot read itself.
task<outcome<library_verdict>> compare_with_library(disk& of, compare_progress progress);

}  // namespace weir::cli
