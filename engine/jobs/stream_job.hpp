// Streaming: brings what the layers below own into the active layer, then drops or rewrites the backing link.
//
// The job asks the disk for the next range that has something to bring in (metadata only), cuts it to a step, and
// keeps a window of steps in flight. A step is whole clusters, at most one MiB where clusters allow, less under a
// low speed limit, so that pause, cancel and a new speed act within one step. Ranges done are found allocated when
// the job is started again, so an interrupted job goes on where it stopped; until the link is dropped the chain is
// valid at every moment.
// The end, in this order: the disk is drained; the active layer's header is rewritten and made durable; the layers
// are dropped from the chain; the requests waiting go on; `chain_changed` writes the XML.
#pragma once

#include "engine/base/task_group.hpp"
#include "engine/block/disk.hpp"
#include "engine/jobs/job.hpp"

#include <functional>
#include <optional>
#include <string>

namespace weir {

struct stream_options {
  /// Depth of the layer that stays the backing; the chain's depth or more: none stays.
  std::size_t base_depth = static_cast<std::size_t>(-1);
  /// The name to record for that layer instead of its absolute one.
  std::optional<std::string> backing_name;
  /// Called once the header is durable and the chain has changed. Its error is the job's.
  std::function<outcome<void>(const disk& changed)> chain_changed;
};

/// The disk must outlive the job; no other job may change its chain meanwhile.
class stream_job final : public job {
 public:
  stream_job(disk& target, job_settings settings, stream_options options);

 private:
  using dropped_layers = std::vector<std::shared_ptr<layer>>;

  task<outcome<void>> do_run() override;
  task<void> do_settle() override;
  task<outcome<void>> do_finalize() override;

  task<result<void>> stream_all();
  task<void> copy_step(byte_range range);
  task<result<void>> handle_failed_step();
  task<result<dropped_layers>> change_chain();
  std::uint64_t step_bytes() const noexcept;
  std::size_t base_depth() const noexcept;
  std::optional<backing_reference> new_backing() const;

  disk& disk_;
  stream_options options_;
  std::shared_ptr<layer> base_;  // null: none stays
  task_group steps_;
  std::uint64_t next_offset_ = 0;
  std::uint64_t done_bytes_ = 0;
  byte_range failed_range_;
  error_code failed_with_;
  error_code skipped_error_;
};

}  // namespace weir
