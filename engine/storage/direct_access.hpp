// Reads and writes of any alignment on an O_DIRECT descriptor.
//
// What is aligned goes straight to the kernel. The rest goes through a bounce buffer, and a write of part of a
// block reads the block first. Every change holds its blocks exclusively meanwhile, so that two changes of
// one block, or a change and a hole punched beside it, do not undo each other. A write whose last block reaches
// past the wanted end makes the file too long for a moment and cuts it back; it holds all that follows, so
// that no growth is cut off.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/in_flight.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/direct_alignment.hpp"
#include "engine/storage/file_io.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

namespace weir {

class direct_access {
 public:
  static constexpr std::uint64_t to_the_end = std::numeric_limits<std::int64_t>::max();

  /// `size` is the length of the file; writes raise it. `has_end` tells that the file can be too long (it is a
  /// regular one). All outlive this.
  direct_access(file_io& io, int descriptor, direct_alignment alignment, std::uint64_t& size, bool has_end);

  std::uint32_t block_bytes() const noexcept { return alignment_.block; }

  task<result<void>> read(std::uint64_t offset, std::span<std::byte> buffer);
  task<result<void>> write(std::uint64_t offset, std::span<const std::byte> data);
  /// For other changes (zeroing, discarding, truncating): the blocks that `range` touches.
  task<in_flight_ranges::hold> acquire(byte_range range);

 private:
  bool is_straight(std::uint64_t offset, const std::byte* data, std::size_t length) const noexcept;
  bool overshoots(byte_range range) const noexcept;
  task<result<void>> write_bounced(byte_range range, std::span<const std::byte> data);
  task<result<void>> write_chunk(byte_range blocks, byte_range part, std::span<const std::byte> data,
                                 std::span<std::byte> bounce);
  task<result<void>> cut(std::uint64_t length);

  file_io& io_;
  int descriptor_;
  direct_alignment alignment_;
  std::uint64_t& size_;
  bool has_end_;
  in_flight_ranges held_;
};

}  // namespace weir
