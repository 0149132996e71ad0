// Making an overlay independent of the backing chain it has, where that reads differently from the one it is to get.
//
// What the overlay itself holds stays. Elsewhere both chains are read and compared grain by grain, and what differs is
// written into the overlay as the old chain has it. At every moment the overlay reads as before, so that an
// interrupted rebase is continued by starting it again: what it has written is the overlay's own then.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/disk.hpp"

#include <cstdint>
#include <functional>

namespace weir {

/// Called between steps with bytes done of the disk's size; returning false cancels.
using progress_callback = std::function<bool(std::uint64_t done_bytes, std::uint64_t total_bytes)>;

/// `backing` is the new backing chain, as a disk; past its end it reads as zero. Precondition: nobody else uses
/// `overlay`. Does not flush. Failures name the disk and the offset.
task<outcome<void>> copy_differences(disk& overlay, disk& backing, progress_callback progress);

/// Brings everything that lower layers hold into the overlay, so that it needs none. Precondition and failures as
/// above.
task<outcome<void>> copy_everything(disk& overlay, progress_callback progress);

}  // namespace weir
