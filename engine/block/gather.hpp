// Reading a guest range through the chain into one buffer.
//
// Two ways: read_chain() walks and reads on the engine's thread, for guest requests; a gather_plan first
// finds where everything is (pinned), so that a worker can then read all of it by descriptor, for copies.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/block/chain.hpp"
#include "engine/block/resources.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace weir {

/// Fills `buffer` with the guest's view of `range` as the layers `among` give it; what none of them owns
/// reads as zero. Precondition: buffer.size() == range.length.
task<result<void>> read_chain(engine_resources resources, const chain& from, byte_range range,
                              std::span<std::byte> buffer, depth_range among);

/// The same on the spot, from cached metadata, memory and the page cache; false where that does not do. Part of the
/// buffer may be filled then.
bool read_chain_at_once(const chain& from, byte_range range, std::span<std::byte> buffer);

/// The same on a worker where descriptors allow, followed by a search for zeros: returns where `buffer` is not
/// zero (see non_zero_runs).
task<result<std::vector<byte_range>>> gather_and_scan(engine_resources resources, const chain& from,
                                                      byte_range range, std::span<std::byte> buffer,
                                                      std::uint64_t granularity);

/// A guest range taken apart into pinned extents. A value between plan() and its last read.
class gather_plan {
 public:
  /// Looks `range` up. Errors: those of chain::lookup.
  static task<result<gather_plan>> plan(const chain& from, byte_range range, depth_range among);

  /// A part of the range that lies as it is in a file.
  struct raw_run {
    byte_range part;  ///< relative to the range
    int descriptor;
    std::uint64_t host_offset;
  };
  /// All of the range that does not read as zero; nothing unless all of that is raw bytes behind descriptors.
  std::optional<std::vector<raw_run>> raw_runs() const;

  /// First half: reads what has no descriptor through its storage, on the engine's thread.
  /// Precondition: buffer.size() is the planned range's length.
  task<result<void>> read_by_storage(std::span<std::byte> buffer);
  /// Second half, once the first has succeeded: reads what lies behind descriptors, decodes, and fills in zeros.
  /// Blocking; any thread; once.
  result<void> read_by_descriptor(std::span<std::byte> buffer);

 private:
  struct piece {
    std::uint64_t position;  // in the buffer
    std::uint64_t length;
    std::uint64_t guest_offset;
    located_extent from;
    std::optional<int> descriptor;
    std::vector<std::byte> encoded;  // a unit's host bytes, once they are read
  };
  std::vector<piece> pieces_;
};

}  // namespace weir
