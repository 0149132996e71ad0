// One step of a copy that a single worker does from end to end: it reads by descriptor, finds zeros, and writes by
// descriptor what is not zero, while the bytes are still in its cache. For targets whose place is known before the
// data is: raw images, preallocated ones. Bitmaps that record want to be told, and are by the other way.
//
// Where both are files of one file system that can (XFS, btrfs), and what is not known to be zero lies raw in them at
// whole blocks, the target comes to share the source's blocks. Nothing is read then, so zeros stored in them are not
// found.
#pragma once

#include "engine/base/buffer_pool.hpp"
#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/block/disk.hpp"

#include <cstdint>
#include <optional>
#include <vector>

namespace weir {

struct direct_step {
  bool refuses_clones = false;  ///< the file system was asked and cannot
  bool done =
      false;  ///< false: the target's place is not one extent in place behind a descriptor, or bitmaps record
  /// What is not zero: absolute, in multiples of the granularity or shared blocks.
  std::vector<byte_range> copied = {};
  const disk* culprit = nullptr;  ///< the disk that failed, and how
  error_code error = {};
};

/// Copies the parts of `range` that are not zero; what is zero is left as it was.
/// Precondition: as copy_disk(); buffer.size() == range.length.
task<direct_step> copy_directly(disk& from, disk& to, byte_range range, std::span<std::byte> buffer,
                                std::uint64_t granularity, bool may_clone);

}  // namespace weir
