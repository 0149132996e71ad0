#include "engine/block/grain_planner.hpp"

#include <algorithm>

namespace weir {

void grain_planner::emit(byte_range range, grain_action action) {
  if (range.empty()) return;
  if (!runs_.empty() && runs_.back().action == action && runs_.back().range.end() == range.offset) {
    runs_.back().range.length += range.length;
  } else {
    runs_.push_back({range, action});
  }
}

void grain_planner::add(byte_range part, grain_action action) {
  while (!part.empty()) {
    if (open_.empty() && is_aligned(part.offset, grain_)) {
      // The last grain of the disk may be partial and counts as whole.
      const std::uint64_t whole_end = part.end() == disk_size_ ? part.end() : align_down(part.end(), grain_);
      if (whole_end > part.offset) {
        emit(range_between(part.offset, whole_end), action);
        part = range_between(whole_end, part.end());
        continue;
      }
    }
    const std::uint64_t grain_end = std::min(align_down(part.offset, grain_) + grain_, disk_size_);
    const std::uint64_t end = std::min(part.end(), grain_end);
    if (open_.empty()) {
      open_ = range_between(part.offset, end);
      open_action_ = action;
    } else {
      open_.length += end - part.offset;
      if (open_action_ != action) open_action_ = grain_action::copy;
    }
    if (end == grain_end) {
      emit(open_, open_action_);
      open_ = {};
    }
    part = range_between(end, part.end());
  }
}

}  // namespace weir
