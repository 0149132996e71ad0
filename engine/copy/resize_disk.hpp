// Changing the size of a disk that nobody else uses, and what that means for its content.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/disk.hpp"

#include <cstdint>

namespace weir {

/// What is done about the space that a disk gains; QEMU's words.
enum class preallocation : std::uint8_t {
  off,
  metadata,  ///< mapped, but no space taken
  falloc,    ///< mapped, and space reserved
  full,      ///< written with zeros
};

/// The active layer gets `size` bytes (a multiple of 512); durable on return. What is gained reads as zero, whatever
/// a longer backing image or the last cluster's old end holds; after a power loss, too, unless the image is qcow2 of
/// version 2, which has no zero clusters to say so. What is lost is gone. Precondition: no request and no
/// job is under way; preallocation only when growing. Failures name the image and the reason.
task<outcome<void>> resize_disk(disk& changed, std::uint64_t size, preallocation mode);

}  // namespace weir
