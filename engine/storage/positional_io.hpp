// Blocking reads and writes of whole ranges by descriptor, for workers.
#pragma once

#include "engine/base/error.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace weir {

/// Fills `buffer` from `offset`; what lies beyond the end of the file reads as zero. Any thread.
result<void> read_fully(int descriptor, std::uint64_t offset, std::span<std::byte> buffer);
/// Writes all of `data` at `offset`. Any thread.
result<void> write_fully(int descriptor, std::uint64_t offset, std::span<const std::byte> data);
/// Lets the kernel begin to write a file's dirty pages to its device, so that a flush later has less left to do.
/// Advice: promises nothing. Any thread; may wait for the device.
void begin_writeback(int descriptor) noexcept;

}  // namespace weir
