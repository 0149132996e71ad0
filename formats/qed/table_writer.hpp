// Makes table changes durable in an order that survives a power loss at any point.
//
// A flush is one or more passes. A pass takes the slices that are dirty when it begins, with the bytes they
// have then; what is published meanwhile belongs to the next pass. Concurrent flushes share a pass that
// begins after all of them. One pass:
//
//   1. write the slices of new L2 tables: no durable L1 entry points to them yet
//   2. sync: guest data, new tables and the file's length
//   3. write the slices of older L2 tables and of the L1 table: all they point to is durable
//   4. sync
//
// A pass that fails leaves its slices dirty. A table counts as new until its L1 entry is about to be written:
// from then on the entry may be durable, whatever the pass reports.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"
#include "formats/qcow2/slice_cache.hpp"

#include <cstdint>
#include <set>
#include <span>
#include <vector>

namespace weir::qed {

class table_writer {
 public:
  /// `file` and `slices` outlive the writer. L2 tables are `table_bytes` long.
  table_writer(executor context, storage& file, qcow2::slice_cache& slices, std::uint64_t table_bytes)
      : file_(file), slices_(slices), table_bytes_(table_bytes), pass_ended_(std::move(context)) {}

  /// The L1 entry of a new table was just set in the cache; the table's own bytes read as zero.
  void add_new_table(std::uint64_t offset) { new_tables_.insert(offset); }

  /// Everything published, and all data written before it, is durable on return. Errors: the storage's; then
  /// everything is still pending.
  task<result<void>> flush();

 private:
  using frozen_slices = std::vector<qcow2::frozen_bytes>;

  task<result<void>> run_pass();
  task<result<void>> write_in_order(const frozen_slices& frozen);
  task<result<void>> write_slices(const frozen_slices& slices);
  bool is_new(std::uint64_t slice) const noexcept;

  storage& file_;
  qcow2::slice_cache& slices_;
  std::uint64_t table_bytes_;
  std::set<std::uint64_t> new_tables_;  // offsets of tables whose L1 entry has never been written
  async_event pass_ended_;
  std::uint64_t begun_count_ = 0;  // passes; one runs while more have begun than ended
  std::uint64_t ended_count_ = 0;
  result<void> last_result_;  // of the pass that ended last
};

}  // namespace weir::qed
