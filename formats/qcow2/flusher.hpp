// Flush passes: the order in which changed metadata reaches the storage, and group commit.
//
// A pass takes everything that is dirty at one instant (refcount slices, refcount table entries, L2 slices, L1
// entries, dropped clusters) and writes those bytes, whatever changes meanwhile:
//   0  nothing                              but a flush of the external data file, where there is one
//   1  refcount slices                      then flush: covers all guest data, new tables' zeros, these counts
//   2  refcount table entries               then flush; a moved table is written whole, flushed, and then the
//                                           header's sector switches to it, flushed
//   3  L2 slices and L1 entries             then flush
//   4  dropped clusters are handed to the allocator, which decrements them in a later pass
// So at every point of time what a pointer names on the storage is itself there and counted:
//   data (0, 1) and counts (1) before the pointers to them (3), blocks (1) before the table entry (2) before any
//   pointer that relies on the counts (3), new L2 tables (zeros or a copy, written when they came into being,
//   so covered by 1) before the L1 entry (3). Which of the entries in 3 arrive first does not matter: each
//   leads to something whole.
// All dirty state is taken at one instant, and counts are raised before a pointer is published, so the counts
// of a pass cover its pointers. The flush of step 1 covers guest data and always happens; what else has nothing to
// write is left out. So a flush after writes in place is one flush of each storage.
//
// Errors leave everything the pass took dirty for the next one.
//
// Group commit: a flush is served by the first pass that starts after it was asked for; all that wait share it.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "formats/qcow2/allocator.hpp"
#include "formats/qcow2/header_layout.hpp"
#include "formats/qcow2/image_tables.hpp"
#include "formats/qcow2/refcounts.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace weir::qcow2 {

/// Steps of a change of cluster 0, which parses as `current`.
using header_plan = std::function<result<std::vector<header_step>>(std::span<const std::byte> cluster,
                                                                   const header& current)>;

class flusher {
 public:
  flusher(executor context, image_tables& tables, refcounts& counts, allocator& clusters);

  task<result<void>> flush();
  /// A pass, then the steps that `plan` makes of cluster 0 and the header in it, each durable before the next; no
  /// other pass runs meanwhile, so that the header's table pointers stay put.
  task<result<void>> change_header(header_plan plan);
  task<result<void>> change_backing(std::optional<backing_reference> wanted);
  bool has_dirty() const noexcept;

 private:
  struct frozen_state;

  void finish(result<void> answer);
  task<result<void>> write_header(const header_plan& plan);
  task<result<void>> run_pass();
  task<result<void>> write_pass(const frozen_state& taken);
  task<result<void>> write_refcount_table(const frozen_state& taken);
  task<result<void>> write_pointers(const frozen_state& taken);
  task<result<void>> write_all(const std::vector<frozen_bytes>& parts);

  image_tables& tables_;
  refcounts& counts_;
  allocator& clusters_;
  std::uint64_t passes_started_ = 0;
  std::uint64_t passes_finished_ = 0;
  result<void> last_answer_;
  async_event finished_;
};

}  // namespace weir::qcow2
