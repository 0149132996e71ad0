#include "engine/base/in_flight.hpp"

#include "engine/base/task_group.hpp"
#include "tests/support/run_task.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace weir {
namespace {

class in_flight_test : public testing::Test {
 protected:
  boost::asio::io_context io;
  in_flight_ranges ranges{io.get_executor()};
  task_group group{io.get_executor()};
  std::vector<int> granted;
  std::vector<in_flight_ranges::hold> holds{8};

  task<void> take(int number, byte_range range) {
    holds[static_cast<std::size_t>(number)] = co_await ranges.acquire(range);
    granted.push_back(number);
  }
  void turn() {
    io.restart();
    io.poll();
  }
};

TEST_F(in_flight_test, only_overlapping_ranges_wait) {
  group.spawn(take(0, {0, 10}));
  group.spawn(take(1, {5, 10}));
  group.spawn(take(2, {10, 10}));
  turn();
  EXPECT_EQ(granted, (std::vector<int>{0}));  // 2 waits behind 1, which came first
  holds[0].release();
  turn();
  EXPECT_EQ(granted, (std::vector<int>{0, 1}));
  holds[1].release();
  turn();
  EXPECT_EQ(granted, (std::vector<int>{0, 1, 2}));
  holds[2].release();
  turn();
  EXPECT_EQ(ranges.count(), 0U);
}

TEST_F(in_flight_test, neighbours_run_side_by_side) {
  group.spawn(take(0, {0, 10}));
  group.spawn(take(1, {10, 10}));
  turn();
  EXPECT_EQ(granted, (std::vector<int>{0, 1}));
  EXPECT_FALSE(ranges.try_acquire({9, 1}));
  EXPECT_TRUE(ranges.try_acquire({20, 1}));
  holds.clear();
}

TEST_F(in_flight_test, a_released_range_goes_to_the_first_waiter) {
  group.spawn(take(0, {0, 10}));
  group.spawn(take(1, {0, 4}));
  group.spawn(take(2, {2, 8}));
  group.spawn(take(3, {6, 4}));
  turn();
  holds[0].release();
  turn();
  EXPECT_EQ(granted, (std::vector<int>{0, 1}));
  holds[1].release();
  turn();
  EXPECT_EQ(granted, (std::vector<int>{0, 1, 2}));
  holds[2].release();
  turn();
  EXPECT_EQ(granted.back(), 3);
  holds.clear();
}

}  // namespace
}  // namespace weir
