// Makes table changes durable in an order that survives a power loss at any point.
//
// A flush is one or more passes. A pass takes the slices that are dirty when it begins, with the bytes they
// have then; what is published meanwhile belongs to the next pass. Concurrent flushes share a pass that
// begins after all of them. One pass:
//
//   1. sync: guest data, and the file's length with all new tables in it
//   2. write the slices, of L2 tables and of the L1 table
//   3. sync
//
// L2 and L1 slices need no order among themselves: a new table is fresh space, which reads as zero after
// step 1 whatever happens. An L1 entry that becomes durable before the entries of its new table therefore
// points to a table that maps nothing yet, and those entries were not promised to anyone. A slice torn at
// sectors is old entries and new ones, all valid. A pass that fails leaves its slices dirty.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"
#include "formats/qcow2/slice_cache.hpp"

#include <cstdint>
#include <utility>
#include <vector>

namespace weir::qed {

class table_writer {
 public:
  /// `file` and `slices` outlive the writer.
  table_writer(executor context, storage& file, qcow2::slice_cache& slices)
      : file_(file), slices_(slices), pass_ended_(std::move(context)) {}

  /// Everything published, and all data written before it, is durable on return. Errors: the storage's; then
  /// everything is still pending.
  task<result<void>> flush();

 private:
  using frozen_slices = std::vector<qcow2::frozen_bytes>;

  task<result<void>> run_pass();
  task<result<void>> write_in_order(const frozen_slices& frozen);
  task<result<void>> write_slices(const frozen_slices& slices);

  storage& file_;
  qcow2::slice_cache& slices_;
  async_event pass_ended_;
  std::uint64_t begun_count_ = 0;  // passes; one runs while more have begun than ended
  std::uint64_t ended_count_ = 0;
  result<void> last_result_;  // of the pass that ended last
};

}  // namespace weir::qed
