// Copies the whole content of one disk to another that nobody else writes, several ranges at a time.
//
// What the source knows to be zero is not read. What is read is searched for zeros, which are not written: they
// become holes or zero clusters of the target. Steps are whole grains of the target where those are small enough,
// so that every cluster is written once. Where the target's place is known beforehand one worker does a whole step
// (direct_step.hpp).
//
// Encoded: workers encode several steps at a time; the steps are then written in order, one behind the other, so that
// the result is packed and the same every time.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/disk.hpp"

#include <cstdint>
#include <functional>

namespace weir {

struct disk_copy_options {
  unsigned window_steps = 16;
  /// The target reads as zero throughout (it was just created): zeros need not be written.
  bool target_is_zero = false;
  /// Zeros shorter than this are written as data; a power of two, at least 512; 0 writes all zeros as data.
  std::uint64_t sparse_bytes = 4096;
  /// Files on one file system may come to share blocks (direct_step.hpp); what is shared is not searched for zeros.
  bool may_share = true;
  /// Only what some layer of the source holds is copied, to the byte; the target keeps the rest.
  bool only_allocated = false;
  /// Data is written encoded (compressed) where that makes it smaller. Precondition: to.encoding().
  bool encode = false;
  /// Called between steps with bytes done of the source's size; returning false cancels.
  std::function<bool(std::uint64_t done_bytes, std::uint64_t total_bytes)> progress;
};

struct disk_copy_tally {
  std::uint64_t copied_bytes = 0;  ///< non-zero data written
  std::uint64_t zero_bytes = 0;    ///< known or found to be zero
};

/// Precondition: neither disk's chain changes meanwhile; nobody watches `to` but the bitmaps of its own image;
/// to.size() >= from.size(); what the target has beyond is left alone. Does not flush the target. Failures name the
/// disk and the offset.
task<outcome<disk_copy_tally>> copy_disk(disk& from, disk& to, disk_copy_options options);

}  // namespace weir
