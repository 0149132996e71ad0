// Storage: bytes at offsets. Knows nothing of formats or chains.
//
// Every public operation checks its contract and then calls one private do_… of the implementation. Offsets
// and lengths may have any alignment: an implementation that needs alignment (O_DIRECT) does the
// read-modify-write itself, serialised per block.
//
// Lifetime: buffers belong to the operation until it completes. close() is awaited before destruction, with
// no operation in flight.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace weir {

/// What a storage can do. Constant while it is open.
struct storage_capabilities {
  bool writable = false;
  bool can_grow = false;       ///< writes past the end extend it; otherwise they fail with ENOSPC
  bool can_punch = false;      ///< zero() and discard() may give space back
  bool fast_zero = false;      ///< zero() is cheaper than writing zeros
  bool reports_holes = false;  ///< status() can tell holes from data
  std::uint32_t alignment =
      1;  ///< offsets and lengths of this multiple avoid read-modify-write; power of two
};

/// One run of a storage as its holes tell it.
struct storage_run {
  std::uint64_t length = 0;  ///< bytes from the offset asked for, > 0
  bool hole = false;         ///< reads as zero and takes no space
};

enum class zero_mode : std::uint8_t {
  may_punch,       ///< space may be given back
  keep_allocated,  ///< later writes there must not run out of space
};

class storage {
 public:
  storage() = default;
  storage(const storage&) = delete;
  storage& operator=(const storage&) = delete;
  virtual ~storage() = default;

  /// Human-readable location for error texts, e.g. the path.
  virtual const std::string& location() const noexcept = 0;
  virtual const storage_capabilities& capabilities() const noexcept = 0;
  /// Current length in bytes; grows with writes where can_grow.
  virtual std::uint64_t size() const noexcept = 0;
  /// Open file descriptor that serves positional reads and writes of any alignment on any thread (workers use
  /// it as a value), owned by the storage; none where I/O must go through this interface.
  virtual std::optional<int> descriptor() const noexcept = 0;
  /// To be called, on the engine's thread, for every range that was written through the descriptor: the length
  /// and what the next flush must cover depend on it.
  virtual void note_descriptor_write(byte_range range) noexcept = 0;
  /// Device and inode for finding loops and double opens; none where the notion does not exist.
  struct identity_type {
    std::uint64_t device;
    std::uint64_t inode;
    friend bool operator==(const identity_type&, const identity_type&) = default;
  };
  virtual std::optional<identity_type> identity() const noexcept = 0;

  /// Fills `buffer`; what lies beyond the end reads as zero. May suspend.
  task<result<void>> read(std::uint64_t offset, std::span<std::byte> buffer);
  /// Writes all of `data`. Errors: read_only; ENOSPC past the end of a storage that does not grow.
  task<result<void>> write(std::uint64_t offset, std::span<const std::byte> data);
  /// Makes completed writes, zeroes, discards and the length durable.
  task<result<void>> flush();
  /// The range reads as zero afterwards. Grows where can_grow (ENOSPC otherwise).
  /// Errors: not_supported where it would not be cheaper than writing zeros.
  task<result<void>> zero(byte_range range, zero_mode mode);
  /// Advice that the content is not needed; it is unspecified but stable afterwards. Clipped to the end.
  task<result<void>> discard(byte_range range);
  /// Sets the length. Errors: not_supported on what has a fixed length.
  task<result<void>> truncate(std::uint64_t length);
  /// The run at range.offset, no longer than range.length. Data where nothing better is known.
  /// Precondition: the range is not empty and starts before the end.
  task<result<storage_run>> status(byte_range range);
  /// Releases locks and descriptors. Does not flush. Idempotent.
  task<result<void>> close();

 private:
  virtual task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) = 0;
  virtual task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) = 0;
  virtual task<result<void>> do_flush() = 0;
  virtual task<result<void>> do_zero(byte_range range, zero_mode mode) = 0;
  virtual task<result<void>> do_discard(byte_range range) = 0;
  virtual task<result<void>> do_truncate(std::uint64_t length) = 0;
  virtual task<result<storage_run>> do_status(byte_range range) = 0;
  virtual task<result<void>> do_close() = 0;

  bool closed_ = false;
};

}  // namespace weir
