#include "engine/storage/allocation_map.hpp"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace weir {
namespace {

TEST(allocation_map, knows_only_what_it_was_told) {
  allocation_map map;
  EXPECT_FALSE(map.find(0));
  map.learn({100, 50}, true);
  EXPECT_FALSE(map.find(99));
  EXPECT_FALSE(map.find(150));
  ASSERT_TRUE(map.find(149));
  EXPECT_EQ(map.find(149)->range, (byte_range{100, 50}));
  EXPECT_TRUE(map.find(149)->reads_zero);
}

TEST(allocation_map, joins_neighbours_of_one_kind) {
  allocation_map map;
  map.learn({0, 10}, false);
  map.learn({20, 10}, false);
  map.learn({10, 10}, false);
  EXPECT_EQ(map.run_count(), 1U);
  map.learn({30, 10}, true);
  EXPECT_EQ(map.run_count(), 2U);
  EXPECT_EQ(map.find(5)->range, (byte_range{0, 30}));
}

TEST(allocation_map, answers_are_always_what_was_told_first) {
  constexpr std::uint64_t size = 400;
  std::mt19937_64 random(20);
  for (int round = 0; round < 200; ++round) {
    allocation_map map;
    std::vector<int> told(size, -1);
    for (int step = 0; step < 40; ++step) {
      const std::uint64_t begin = random() % size;
      const byte_range range{begin, 1 + random() % (size - begin)};
      const bool reads_zero = random() % 2 == 0;
      map.learn(range, reads_zero);
      // It may keep less than all of it, never something else.
      for (std::uint64_t at = 0; at < size; ++at) {
        const auto known = map.find(at);
        if (!known) {
          EXPECT_EQ(told[at], -1);
          continue;
        }
        EXPECT_TRUE(known->range.contains(at));
        if (told[at] == -1) {
          ASSERT_TRUE(range.contains(at));
          told[at] = reads_zero ? 1 : 0;
        }
        EXPECT_EQ(known->reads_zero, told[at] == 1);
      }
    }
  }
}

TEST(allocation_map, is_bounded) {
  allocation_map map;
  for (std::uint64_t index = 0; index < 2 * allocation_map::most_runs; ++index) {
    map.learn({index * 4, 2}, index % 2 == 0);
    ASSERT_LE(map.run_count(), allocation_map::most_runs);
  }
}

TEST(allocation_map, room_is_made_before_an_answer_is_learnt) {
  allocation_map map;
  for (std::uint64_t index = 0; index < allocation_map::most_runs - 1; ++index) {
    map.learn({index * 4, 2}, false);
  }
  constexpr std::uint64_t far = std::uint64_t{1} << 40;
  map.make_room(10);
  for (std::uint64_t index = 0; index < 10; ++index) map.learn({far + index, 1}, index % 2 == 0);
  EXPECT_TRUE(map.find(far)) << "the first of it is still there";
}

}  // namespace
}  // namespace weir
