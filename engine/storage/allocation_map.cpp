#include "engine/storage/allocation_map.hpp"

#include <algorithm>
#include <iterator>

namespace weir {

std::optional<allocation_map::run> allocation_map::find(std::uint64_t offset) const noexcept {
  const auto after = runs_.upper_bound(offset);
  if (after == runs_.begin()) return std::nullopt;
  const auto& [begin, known] = *std::prev(after);
  if (offset >= known.end) return std::nullopt;
  return run{range_between(begin, known.end), known.reads_zero};
}

void allocation_map::make_room(std::size_t count) {
  if (runs_.size() + count > most_runs) runs_.clear();
}

void allocation_map::learn(byte_range range, bool reads_zero) {
  if (runs_.size() >= most_runs) runs_.clear();
  auto after = runs_.upper_bound(range.offset);
  if (after != runs_.begin()) {
    const auto before = std::prev(after);
    // What is known from the range's beginning on stays.
    range = range_between(std::min(std::max(range.offset, before->second.end), range.end()), range.end());
  }
  if (after != runs_.end()) range = range_between(range.offset, std::min(range.end(), after->first));
  if (range.empty()) return;
  std::uint64_t begin = range.offset;
  std::uint64_t end = range.end();
  if (after != runs_.begin()) {
    const auto before = std::prev(after);
    if (before->second.end == begin && before->second.reads_zero == reads_zero) {
      begin = before->first;
      runs_.erase(before);
    }
  }
  if (after != runs_.end() && after->first == end && after->second.reads_zero == reads_zero) {
    end = after->second.end;
    runs_.erase(after);
  }
  runs_.emplace(begin, end_and_kind{end, reads_zero});
}

}  // namespace weir
