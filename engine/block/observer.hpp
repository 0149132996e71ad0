// Observers see everything that changes a disk's content: write, zero, discard. Content-neutral writes
// (copy-on-read, streaming) are not shown to them.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace weir {

enum class change_kind : std::uint8_t { write, zero, discard };

class change_observer {
 public:
  change_observer() = default;
  change_observer(const change_observer&) = delete;
  change_observer& operator=(const change_observer&) = delete;
  virtual ~change_observer() = default;

  /// Called with the range held in flight, before anything changes (copy-before-write of a frozen point,
  /// durable dirty marks). An error fails the guest's request.
  virtual task<result<void>> before_change(byte_range range, change_kind kind) = 0;
  /// Called after the change, still with the range held and before the guest is answered, also if it failed: then
  /// `succeeded` is false, and the content may have changed in part. `data` is what was written, empty for zero and
  /// discard and where it exists only encoded.
  virtual task<result<void>> after_change(byte_range range, change_kind kind, std::span<const std::byte> data,
                                          bool succeeded) = 0;
};

}  // namespace weir
