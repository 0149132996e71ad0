// Compares what two disks show their guests.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/disk.hpp"

#include <cstdint>
#include <functional>
#include <optional>

namespace weir::cli {

struct content_difference {
  std::uint64_t offset = 0;
  bool allocation = false;  ///< strict: the bytes may be equal, but only one of them is allocated there
};

struct compare_settings {
  bool strict = false;  ///< differences of allocation count too
  /// Called with bytes looked at; returning false stops with errc::cancelled.
  std::function<bool(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;
};

/// The first difference, several ranges being compared at a time. What one disk has beyond the other's end must
/// read as zero. Both disks must share one engine and outlive the task. Failures name the disk and the offset.
task<outcome<std::optional<content_difference>>> compare_disks(disk& a, disk& b, compare_settings settings);

}  // namespace weir::cli
