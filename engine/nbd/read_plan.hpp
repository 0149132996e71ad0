// Which parts of a READ are answered as holes. Pure.
#pragma once

#include "engine/base/range.hpp"
#include "engine/block/disk.hpp"

#include <algorithm>
#include <span>
#include <vector>

namespace weir::nbd {

struct read_piece {
  byte_range range;
  bool hole = false;
  friend bool operator==(const read_piece&, const read_piece&) = default;
};

/// Zero runs shorter than this are sent as data: a chunk of their own is not worth it.
inline constexpr std::uint64_t shortest_hole = 4 * KiB;

/// Tiles `asked`, alternating holes and data. `runs` describe a prefix of it; the rest is data.
std::vector<read_piece> plan_read(byte_range asked, std::span<const status_run> runs);

/// Decides when a long read is worth a question for holes. Asking may cost a system call and more, so each
/// answer "no holes" doubles the number of reads until the next question; a hole, or data that turns out to be
/// zero, makes the next read ask again.
class hole_search {
 public:
  bool is_due() noexcept {
    if (skip_ == 0) return true;
    --skip_;
    return false;
  }
  void found() noexcept { skip_ = pause_ = 0; }
  void found_nothing() noexcept {
    pause_ = std::min(pause_ * 2 + 1, longest_pause);
    skip_ = pause_;
  }

 private:
  static constexpr unsigned longest_pause = 255;
  unsigned pause_ = 0;
  unsigned skip_ = 0;
};

}  // namespace weir::nbd
