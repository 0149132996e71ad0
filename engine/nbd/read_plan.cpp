#include "engine/nbd/read_plan.hpp"

namespace weir::nbd {

std::vector<read_piece> plan_read(byte_range asked, std::span<const status_run> runs) {
  std::vector<read_piece> pieces;
  const auto add = [&pieces](byte_range range, bool hole) {
    if (range.empty()) return;
    if (!pieces.empty() && pieces.back().hole == hole) {
      pieces.back().range.length += range.length;
    } else {
      pieces.push_back({range, hole});
    }
  };
  std::uint64_t at = asked.offset;
  while (!runs.empty() && at < asked.end()) {
    // Neighbours that differ only in depth form one zero run.
    const bool zero = runs.front().zero;
    std::uint64_t length = 0;
    while (!runs.empty() && runs.front().zero == zero) {
      length += runs.front().length;
      runs = runs.subspan(1);
    }
    const byte_range run = intersection({at, length}, asked);
    add(run, zero && run.length >= shortest_hole);
    at = run.end();
  }
  add(range_between(at, asked.end()), false);
  return pieces;
}

}  // namespace weir::nbd
