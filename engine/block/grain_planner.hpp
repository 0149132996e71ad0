// Plans copies in whole grains of the target, whatever the boundaries of the source's extents. Pure.
#pragma once

#include "engine/base/range.hpp"

#include <cstdint>
#include <utility>
#include <vector>

namespace weir {

enum class grain_action : std::uint8_t { leave, mark_zero, copy };

struct grain_run {
  byte_range range;
  grain_action action;
  friend bool operator==(const grain_run&, const grain_run&) = default;
};

/// Joins parts that come in ascending order, of any alignment, into runs of whole grains: a grain whose parts
/// differ is copied.
class grain_planner {
 public:
  grain_planner(std::uint64_t grain, std::uint64_t disk_size) : grain_(grain), disk_size_(disk_size) {}

  /// Precondition: `part` starts where the last one ended or in a later grain.
  void add(byte_range part, grain_action action);
  /// The runs, after the last part. Precondition: the parts covered whole grains.
  std::vector<grain_run> take() { return std::move(runs_); }

 private:
  void emit(byte_range range, grain_action action);

  std::uint64_t grain_;
  std::uint64_t disk_size_;
  byte_range open_;  // parts of a grain not complete yet
  grain_action open_action_ = grain_action::leave;
  std::vector<grain_run> runs_;
};

}  // namespace weir
