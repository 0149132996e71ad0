// What O_DIRECT demands of a descriptor: asked of the kernel, then proved by a read.
#pragma once

#include "engine/base/error.hpp"

#include <cstdint>

namespace weir {

/// Powers of two.
struct direct_alignment {
  std::uint32_t block = 4096;   ///< of offsets and lengths
  std::uint32_t memory = 4096;  ///< of buffers
};

/// Precondition: the descriptor has O_DIRECT and can read. Blocks. Errors: errno values of reading; EINVAL if
/// no alignment up to 64 KiB is accepted.
result<direct_alignment> find_direct_alignment(int descriptor, std::uint64_t size);

}  // namespace weir
