// Commit: merges layers of a disk's chain downwards, into one of its own lower layers, while the guest runs.
//
//   active         top is the active layer. A mirror whose target is the chain from the base on: all that the layers
//                  above hold is copied, then what the guest changes; READY; complete() lets the guest go on upon the
//                  base and drops the layers above, finish() leaves everything as it is, with the base a whole copy.
//   intermediate   top is a layer that nobody writes. What the layers from it down to the base hold is copied, then the
//                  layer above is given the base as its backing image, and what lies between is dropped.
//
// The base is written through the image that the chain itself reads it through: its layer is opened anew, for writing,
// with the disk drained, and once more read-only at the end. What is committed is owned by a layer above, so the
// guest never reads it from the base meanwhile, and what the guest reads from the base is not changed. A crash at any
// moment leaves a chain that reads as before.
//
// The end of an intermediate commit, in this order: the base is durable; the disk is drained; the header of the layer
// above is rewritten and made durable; the layers are dropped from the chain; the requests waiting go on;
// `chain_changed` writes the XML.
#pragma once

#include "engine/block/disk.hpp"
#include "engine/jobs/job.hpp"
#include "engine/jobs/mirror_job.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace weir {

/// Opens one layer by itself. Failures name it.
using layer_opener =
    std::function<task<outcome<std::shared_ptr<layer>>>(const layer_model& model, bool writable)>;

struct commit_options {
  std::size_t top_depth = 0;  ///< 0: active
  std::size_t base_depth = 1;
  /// Intermediate: the name to record for the base instead of its absolute one.
  std::optional<std::string> backing_name;
  layer_opener open;
  /// Called once the disk's chain has changed. Its error is the job's.
  std::function<outcome<void>(const disk& changed)> chain_changed;
  /// Called with each layer that is no part of the chain any more, closed, once all has gone well.
  std::function<void(const layer_model& dropped)> dropped;
};

/// The job, with the base open for writing and as long as the top at least. Precondition: top_depth < base_depth <
/// target's depth; no other job changes the disk's chain until this one has ended; the disk outlives the job. Failures
/// name the layer; the chain is as it was then.
task<outcome<std::unique_ptr<job>>> make_commit_job(disk& target, job_settings settings,
                                                    commit_options options);

}  // namespace weir
