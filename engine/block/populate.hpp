// Bringing backing data into the active layer, content unchanged: the step that copy-on-read and streaming
// share.
//
// 1. plan (grain_planner.hpp): the active layer's unallocated parts are taken apart into runs of whole grains to copy, to
//    mark zero, or to leave.
// 2. copy, in two worker steps with the engine between: a worker reads a piece and finds its zeros; the
// engine
//    allocates the rest; a worker writes it; the engine publishes.
// What reads as zero without data below is left unallocated when the whole chain is brought in (it reads as
// zero once the backing link is gone); above a base that stays it is marked zero, so that the base cannot
// show.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/block/placement.hpp"

#include <cstdint>
#include <vector>

namespace weir {

/// What populate() did with a range.
struct populated {
  std::uint64_t copied_bytes = 0;   ///< non-zero data written to the active layer
  std::uint64_t zero_bytes = 0;     ///< found to be zero: marked, or left unallocated
  std::uint64_t skipped_bytes = 0;  ///< allocated in the active layer before, or owned below the base
};

/// Copies what layers [1, base_depth) own of `range` into the active layer.
/// Precondition: `range` is whole grains of the active layer, or ends at the disk's end, and is held in
/// flight. Errors leave grains done so far in place; calling again skips them.
task<result<populated>> populate(write_context context, byte_range range, std::size_t base_depth);

/// How many lookups that may all be answered from cached metadata a task does before it lets others run.
inline constexpr unsigned looks_per_turn = 256;

/// First part of `within` that populate() would copy or mark, at most `longest` bytes, as whole grains; empty
/// at within.end() if there is none. Looks at metadata only. Precondition: `within` starts on a grain.
task<result<byte_range>> find_to_populate(write_context context, byte_range within, std::size_t base_depth,
                                          std::uint64_t longest);

}  // namespace weir
