// Room for whole tables that are written once and then pointed to: L1 tables of snapshots, snapshot tables, bitmaps.
//
// Precondition of all: the image's allocation lock is held.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "formats/qcow2/allocator.hpp"
#include "formats/qcow2/image_tables.hpp"

#include <cstddef>
#include <span>

namespace weir::qcow2 {

class metadata_space {
 public:
  metadata_space(image_tables& tables, allocator& clusters) : tables_(tables), clusters_(clusters) {}

  /// Writes `bytes` (zeros up to the end of the last cluster) to clusters of their own, in one run, and returns
  /// where. A flush pass makes them and their counts durable. No bytes take no space.
  task<result<byte_range>> place(std::span<const std::byte> bytes);
  /// Nothing on the storage names `range` (any more): its clusters are free.
  task<result<void>> free(byte_range range);

  cluster_run clusters_of(byte_range range) const noexcept {
    return {tables_.shape.cluster_of(range.offset), tables_.shape.clusters_for(range.length)};
  }

 private:
  image_tables& tables_;
  allocator& clusters_;
};

}  // namespace weir::qcow2
