// Goes through a table in the file piece by piece and leaves out its holes, so that a table costs what it holds
// and not what it could hold.
#pragma once

#include "engine/base/endian.hpp"
#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"
#include "formats/qcow2/geometry.hpp"

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

/// Tells `entry_is(raw, index)` of each entry of 8 bytes in `table` that is not 0, in order. `file` outlives the task.
template <class Told>
task<result<void>> for_each_entry(storage& file, byte_range table, Told entry_is) {
  table_pieces pieces(file, table);
  while (true) {
    const auto piece = co_await pieces.next();
    if (!piece) co_return piece.error();
    if (piece->bytes.empty()) co_return result<void>{};
    for (std::size_t at = 0; at + entry_bytes <= piece->bytes.size(); at += entry_bytes) {
      const auto raw = load_big<std::uint64_t>(piece->bytes.data() + at);
      if (raw != 0) entry_is(raw, (piece->offset + at - table.offset) / entry_bytes);
    }
  }
}

}  // namespace weir::qcow2
