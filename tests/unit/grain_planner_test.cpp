#include "engine/block/grain_planner.hpp"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace weir {
namespace {

using enum grain_action;

TEST(grain_planner, a_mixed_grain_is_copied) {
  grain_planner planner(64, 1000);
  planner.add({0, 100}, leave);
  planner.add({100, 28}, mark_zero);
  planner.add({128, 872}, mark_zero);
  EXPECT_EQ(planner.take(),
            (std::vector<grain_run>{{{0, 64}, leave}, {{64, 64}, copy}, {{128, 872}, mark_zero}}));
}

TEST(grain_planner, the_partial_last_grain_counts_as_whole) {
  grain_planner planner(64, 100);
  planner.add({0, 64}, copy);
  planner.add({64, 36}, leave);
  EXPECT_EQ(planner.take(), (std::vector<grain_run>{{{0, 64}, copy}, {{64, 36}, leave}}));
}

TEST(grain_planner, agrees_with_a_grain_by_grain_oracle) {
  std::mt19937 random(11);
  for (int round = 0; round < 500; ++round) {
    const std::uint64_t grain = std::uint64_t{1} << (random() % 7);
    const std::uint64_t size = 1 + random() % 500;
    grain_planner planner(grain, size);
    std::map<std::uint64_t, grain_action> expected;
    std::vector<grain_run> runs;
    for (std::uint64_t at = 0; at < size;) {
      const byte_range part{at, std::min<std::uint64_t>(1 + random() % 90, size - at)};
      const auto action = static_cast<grain_action>(random() % 3);
      planner.add(part, action);
      for (std::uint64_t byte = part.offset; byte < part.end(); ++byte) {
        const auto [known, fresh] = expected.emplace(byte / grain, action);
        if (!fresh && known->second != action) known->second = copy;
      }
      for (const grain_run& run : planner.take()) runs.push_back(run);
      at = part.end();
    }
    std::uint64_t covered = 0;
    for (const grain_run& run : runs) {
      ASSERT_EQ(run.range.offset, covered);
      covered = run.range.end();
      for (std::uint64_t at = run.range.offset; at < covered; at += grain) {
        ASSERT_EQ(run.action, expected[at / grain]) << "round " << round << " at " << at;
      }
    }
    ASSERT_EQ(covered, size);
  }
}

}  // namespace
}  // namespace weir
