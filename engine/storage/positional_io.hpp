// Reads and writes of whole ranges by descriptor: blocking ones, for workers, and those that wait for nothing.
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
/// True if I/O through the descriptor never waits for a device, since its file lies in memory (tmpfs).
bool is_in_memory(int descriptor) noexcept;
/// Fills `buffer` if all of it can be had without waiting for a device; `may_wait` tells that there may be one.
bool read_if_cached(int descriptor, std::uint64_t offset, std::span<std::byte> buffer,
                    bool may_wait) noexcept;
/// True if all of a file's range lies in the page cache, so that whoever reads it now waits for no device. False where
/// the kernel does not tell (before Linux 6.5), for holes, and behind the end.
bool is_cached(int descriptor, std::uint64_t offset, std::uint64_t length) noexcept;
/// Lets the target share the source's blocks instead of having copies of its own, durable like a write. Any thread; the
/// source's dirty pages are written first. False, with the target as it was or changed within the range only, where the
/// file system cannot: other or no such file system, offsets or length not in multiples of its block.
bool clone_range(int source, std::uint64_t source_offset, int target, std::uint64_t target_offset,
                 std::uint64_t length) noexcept;
/// Lets the kernel begin to write a file's dirty pages to its device, so that a flush later has less left to do.
/// Advice: promises nothing. Any thread; may wait for the device.
void begin_writeback(int descriptor) noexcept;

}  // namespace weir
