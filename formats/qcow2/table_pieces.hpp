// Goes through a table in the file piece by piece and leaves out its holes, so that a table costs what it holds
// and not what it could hold.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace weir::qcow2 {

class table_pieces {
 public:
  /// `table` begins at a multiple of 512; what lies past the end of the file is left out like a hole. `file`
  /// outlives this.
  table_pieces(storage& file, byte_range table) : file_(file), table_(table), at_(table.offset) {}

  struct piece {
    std::uint64_t offset = 0;    ///< in the file, a multiple of 512
    std::span<std::byte> bytes;  ///< valid until the next call; empty at the end of the table
  };
  /// The next piece that may hold something, of a multiple of 512 bytes unless the table ends in it.
  task<result<piece>> next();

 private:
  storage& file_;
  byte_range table_;
  std::uint64_t at_;
  std::vector<std::byte> buffer_;
};

}  // namespace weir::qcow2
