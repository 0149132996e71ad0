// What a consistency check of one image asks and answers, in the words and figures of qemu-img check.
//
//   corruption   the image contradicts itself: data may be lost, and writing may lose more
//   leak         host space that is marked used and that nothing names: a waste, no danger
//   check error  something could not be looked at
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace weir {

enum class repair_mode : std::uint8_t {
  none,   ///< nothing is written
  leaks,  ///< leaked space is given back; nothing else is touched
  all,    ///< everything that can be put right without inventing data
};

/// Told every finding as it is made, one line without a full stop: which table, where, what for which guest
/// range, and whether it was repaired.
using finding_sink = std::function<void(std::string_view line)>;

struct check_options {
  repair_mode repair = repair_mode::none;
  finding_sink on_finding;  ///< may be empty
};

/// The figures of what is wrong are those after the repair.
struct check_report {
  std::uint64_t corruptions = 0;
  std::uint64_t leaks = 0;  ///< clusters
  std::uint64_t check_errors = 0;
  std::uint64_t corruptions_fixed = 0;
  std::uint64_t leaks_fixed = 0;

  std::uint64_t image_end_offset = 0;  ///< behind the last cluster in use; 0: the format has none
  std::uint64_t total_clusters = 0;    ///< guest clusters, as those below
  std::uint64_t allocated_clusters = 0;
  std::uint64_t compressed_clusters = 0;
  std::uint64_t fragmented_clusters = 0;  ///< not behind the guest cluster before them in the file

  bool is_clean() const noexcept { return corruptions == 0 && leaks == 0 && check_errors == 0; }
};

}  // namespace weir
