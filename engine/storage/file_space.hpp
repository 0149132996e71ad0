// The space of a file or block device: zeroing, discarding, holes, length. What the system refuses once as
// unsupported is not asked again.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/file_io.hpp"
#include "engine/storage/storage.hpp"

#include <cstdint>
#include <deque>

namespace weir {

class file_space {
 public:
  /// `io` outlives this. `is_frozen` tells that nobody changes the file, so that its holes may be remembered.
  file_space(file_io& io, int descriptor, bool is_regular, bool is_frozen)
      : io_(io), descriptor_(descriptor), is_regular_(is_regular), is_frozen_(is_frozen) {}

  /// Zeroes and grows a regular file of `size` bytes. Errors: not_supported.
  task<result<void>> zero_file(byte_range range, zero_mode mode, std::uint64_t size);
  /// Zeroes whole sectors of a block device. Errors: not_supported.
  task<result<void>> zero_device(byte_range sectors, zero_mode mode);
  /// Gives space back, leaving zeros or what was there. Succeeds where that is not supported.
  task<result<void>> discard(byte_range range);
  task<result<void>> set_length(std::uint64_t length);
  /// See storage::status(). `size` is the file's length.
  task<result<storage_run>> status(byte_range range, std::uint64_t size);

 private:
  struct run {
    byte_range range;
    bool is_hole;
  };
  using runs = std::deque<run>;

  task<result<void>> punch(byte_range range);
  task<result<void>> zero_allocated(byte_range range);
  static result<runs> list_runs(int descriptor, byte_range range, std::size_t count);

  file_io& io_;
  int descriptor_;
  bool is_regular_;
  bool is_frozen_;
  bool can_punch_ = true;
  bool can_zero_range_ = true;
  bool can_discard_ = true;
  runs known_runs_;  // contiguous; of a file that may change data only, so that it is never wrong
};

}  // namespace weir
