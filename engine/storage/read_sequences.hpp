// Notices who reads in sequence, so that it pays to read ahead.
#pragma once

#include "engine/base/range.hpp"

#include <algorithm>
#include <array>
#include <cstdint>

namespace weir {

/// Remembers where the last few readers stopped.
class read_sequences {
 public:
  /// `first_window` is read ahead of a reader that went on where it had stopped, doubled each time, up to `most`.
  read_sequences(std::uint64_t first_window, std::uint64_t most) : first_window_(first_window), most_(most) {}

  /// How many bytes past the end of this read to have ready; 0 for a reader that jumps.
  std::uint64_t note(byte_range read) noexcept {
    for (reader& each : readers_) {
      const bool goes_on = each.window != 0 && read.offset <= each.end && each.end <= read.end();
      if (!goes_on) continue;
      const bool is_new = each.window == seen_once;
      each = {read.end(), std::min(is_new ? first_window_ : each.window * 2, most_), ++turn_};
      return each.window;
    }
    reader& oldest = *std::ranges::min_element(readers_, {}, &reader::turn);
    oldest = {read.end(), seen_once, ++turn_};
    return 0;
  }

 private:
  static constexpr std::uint64_t seen_once = 1;
  struct reader {
    std::uint64_t end = 0;
    std::uint64_t window = 0;  ///< 0: nobody
    std::uint64_t turn = 0;
  };

  std::uint64_t first_window_;
  std::uint64_t most_;
  std::uint64_t turn_ = 0;
  std::array<reader, 8> readers_{};
};

}  // namespace weir
