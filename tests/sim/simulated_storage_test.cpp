// The simulator itself: it must lose what may be lost and keep what must be kept.
#include "engine/storage/simulated_storage.hpp"

#include "tests/support/run_task.hpp"
#include "tests/support/simulation.hpp"

#include <gtest/gtest.h>

#include <set>
#include <stdexcept>

namespace weir {
namespace {

using namespace std::chrono_literals;
using bytes = std::vector<std::byte>;

bytes filled(std::size_t length, int value) {
  return bytes(length, static_cast<std::byte>(value));
}

bytes content(const sparse_bytes& from, std::size_t length) {
  bytes all(length);
  from.read(0, all);
  return all;
}

class simulated_storage_test : public ::testing::Test {
 protected:
  boost::asio::io_context io;
  virtual_clock clock{io.get_executor()};

  result<void> write(storage& to, std::uint64_t offset, const bytes& data) {
    return test::run(io, to.write(offset, data));
  }
};

TEST_F(simulated_storage_test, keeps_what_was_flushed_whatever_the_seed) {
  simulated_disk disk;
  simulated_storage store(disk);
  ASSERT_TRUE(write(store, 100, filled(5000, 1)));
  ASSERT_TRUE(test::run(io, store.flush()));
  EXPECT_EQ(disk.unsynced_count(), 0U);
  ASSERT_TRUE(write(store, 8192, filled(4096, 2)));
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const simulated_disk survivor = disk.after_power_loss(seed);
    bytes kept(5000);
    survivor.visible().read(100, kept);
    EXPECT_EQ(kept, filled(5000, 1)) << "seed " << seed;
  }
  EXPECT_EQ(disk.after_power_loss(0).size(), 5100U);
  EXPECT_EQ(content(disk.after_power_loss(1).visible(), 12288), content(disk.visible(), 12288));
}

TEST_F(simulated_storage_test, tears_unflushed_writes_at_sectors_and_reorders_overlapping_ones) {
  simulated_disk disk(4096);
  simulated_storage store(disk);
  ASSERT_TRUE(write(store, 0, filled(4096, 1)));
  ASSERT_TRUE(write(store, 0, filled(4096, 2)));
  std::set<int> winners;
  std::size_t mixed = 0;
  for (std::uint64_t seed = 2; seed < 300; ++seed) {
    const bytes left = content(disk.after_power_loss(seed).visible(), 4096);
    std::set<std::byte> values;
    for (std::size_t sector = 0; sector < 4096; sector += 512) {
      values.insert(left[sector]);
      EXPECT_EQ(std::set<std::byte>(left.begin() + static_cast<std::ptrdiff_t>(sector),
                                    left.begin() + static_cast<std::ptrdiff_t>(sector) + 512)
                    .size(),
                1U)
          << "torn inside a sector, seed " << seed;
    }
    if (values.size() == 1) winners.insert(std::to_integer<int>(*values.begin()));
    if (values.size() > 1) ++mixed;
  }
  EXPECT_EQ(winners, (std::set<int>{0, 1, 2}));
  EXPECT_GT(mixed, 10U);
}

TEST_F(simulated_storage_test, loses_lengths_zeroes_and_discards_that_were_not_flushed) {
  simulated_disk disk;
  disk.load(0, filled(8192, 7));
  simulated_storage store(disk);
  ASSERT_TRUE(test::run(io, store.zero({0, 4096}, zero_mode::may_punch)));
  ASSERT_TRUE(test::run(io, store.discard({4096, 4096})));
  ASSERT_TRUE(test::run(io, store.truncate(20000)));
  EXPECT_EQ(content(disk.visible(), 8192), filled(8192, 0));
  const simulated_disk lost = disk.after_power_loss(0);
  EXPECT_EQ(lost.size(), 8192U);
  EXPECT_EQ(content(lost.visible(), 8192), filled(8192, 7));
  EXPECT_EQ(disk.after_power_loss(1).size(), 20000U);
}

TEST_F(simulated_storage_test, a_flush_covers_only_what_was_answered_before_it_was_issued) {
  simulated_disk disk(4096);
  simulated_storage store(disk, {.clock = &clock, .shortest_latency = 1us, .longest_latency = 1us});
  const bytes data = filled(512, 3);
  bool flushed = false;
  const auto writer = [](storage& to, const bytes& from) -> task<void> {
    static_cast<void>(co_await to.write(0, from));
  };
  const auto flusher = [](storage& to, bool& done) -> task<void> {
    done = (co_await to.flush()).has_value();
  };
  test::start(io, writer(store, data));
  test::start(io, flusher(store, flushed));
  test::run_simulation_until(io, clock, [&flushed] { return flushed; });
  EXPECT_EQ(disk.unsynced_count(), 1U);
  EXPECT_EQ(content(disk.after_power_loss(0).visible(), 512), filled(512, 0));
  ASSERT_TRUE(test::run_simulation(io, clock, store.flush()));
  EXPECT_EQ(content(disk.after_power_loss(0).visible(), 512), filled(512, 3));
}

TEST_F(simulated_storage_test, power_goes_after_exactly_the_named_operation_on_any_disk) {
  for (std::uint64_t cut = 0; cut < 5; ++cut) {
    power_supply power;
    simulated_disk first(0, power);
    simulated_disk second(0, power);
    simulated_storage a(first);
    simulated_storage b(second);
    power.cut_after(cut);
    const bool answers[] = {write(a, 0, filled(512, 1)).has_value(), test::run(io, a.flush()).has_value(),
                            write(b, 0, filled(512, 2)).has_value(), test::run(io, b.flush()).has_value()};
    for (std::uint64_t index = 0; index < 4; ++index) EXPECT_EQ(answers[index], index < cut) << cut;
    EXPECT_EQ(power.on(), cut >= 4);
    EXPECT_EQ(power.operation_count(), std::min<std::uint64_t>(cut, 4));
    bytes buffer(1);
    EXPECT_EQ(test::run(io, a.read(0, buffer)).has_value(), power.on());
    // The write that met the cut may have reached the medium, but only if it was flushed must it.
    EXPECT_EQ(content(first.after_power_loss(0).visible(), 512), filled(512, cut >= 2 ? 1 : 0));
    EXPECT_EQ(content(first.after_power_loss(1).visible(), 512), filled(512, 1));
  }
}

TEST_F(simulated_storage_test, injected_faults_hit_what_they_name) {
  simulated_disk disk(16384);
  simulated_storage store(disk);
  disk.inject({.operation = disk_operation::write, .where = {4096, 512}, .skip_count = 1, .count = 2});
  bytes buffer(512);
  EXPECT_TRUE(write(store, 4096, filled(512, 1)));
  EXPECT_TRUE(write(store, 0, filled(4096, 1)));
  EXPECT_EQ(write(store, 0, filled(4097, 2)).error(), errno_code(EIO));
  EXPECT_TRUE(test::run(io, store.read(4096, buffer)));
  EXPECT_EQ(write(store, 4607, filled(1, 2)).error(), errno_code(EIO));
  EXPECT_TRUE(write(store, 4096, filled(512, 5)));
  disk.inject({.operation = disk_operation::flush, .error_number = ENOSPC});
  EXPECT_EQ(test::run(io, store.flush()).error(), errno_code(ENOSPC));
  EXPECT_TRUE(test::run(io, store.flush()));
}

TEST_F(simulated_storage_test, the_part_of_a_failed_write_does_not_come_back_over_a_flushed_one) {
  simulated_disk disk(65536);
  simulated_storage store(disk);
  for (int round = 0; round < 20; ++round) {
    disk.inject({.operation = disk_operation::write});
    EXPECT_FALSE(write(store, 0, filled(65536, 1)));
    ASSERT_TRUE(write(store, 0, filled(65536, 2)));
    ASSERT_TRUE(test::run(io, store.flush()));
    EXPECT_EQ(disk.unsynced_count(), 0U);
  }
  EXPECT_EQ(content(disk.after_power_loss(1).visible(), 65536), filled(65536, 2));
}

TEST_F(simulated_storage_test, a_full_disk_takes_a_part_and_fails_the_rest) {
  simulated_disk disk;
  simulated_storage store(disk);
  disk.set_capacity(8192);
  EXPECT_EQ(write(store, 4000, filled(20000, 1)).error(), errno_code(ENOSPC));
  EXPECT_EQ(disk.visible().allocated_bytes(), 8192U);
  EXPECT_TRUE(write(store, 0, filled(8192, 2))) << "overwriting takes no space";
  EXPECT_EQ(test::run(io, store.zero({8192, 4096}, zero_mode::keep_allocated)).error(), errno_code(ENOSPC));
  EXPECT_TRUE(test::run(io, store.zero({0, 8192}, zero_mode::may_punch)));
  EXPECT_TRUE(write(store, 1 * MiB, filled(4096, 3)));
}

TEST_F(simulated_storage_test, random_errors_come_at_about_the_rate_asked_for) {
  simulated_disk disk(4096);
  simulated_storage store(disk);
  disk.set_error_rate(100'000, 42);
  int failures = 0;
  bytes buffer(512);
  for (int count = 0; count < 1000; ++count) failures += test::run(io, store.read(0, buffer)) ? 0 : 1;
  EXPECT_GT(failures, 50);
  EXPECT_LT(failures, 200);
}

task<void> write_at_once(storage& to, std::vector<int>& order, int number) {
  const bytes data = filled(512, number);
  static_cast<void>(co_await to.write(static_cast<std::uint64_t>(number) * 512, data));
  order.push_back(number);
}

std::vector<int> completion_order(std::uint64_t seed) {
  boost::asio::io_context io;
  virtual_clock clock(io.get_executor());
  simulated_disk disk;
  simulated_storage store(disk,
                          {.clock = &clock, .shortest_latency = 10us, .longest_latency = 10ms, .seed = seed});
  std::vector<int> order;
  for (int number = 0; number < 10; ++number) {
    test::start(io, write_at_once(store, order, number));
  }
  test::run_simulation_until(io, clock, [&order] { return order.size() == 10; });
  EXPECT_GE(clock.now(), 10us);
  EXPECT_LE(clock.now(), 10ms);
  return order;
}

TEST(simulated_time, operations_overtake_each_other_and_a_seed_replays) {
  const std::vector<int> first = completion_order(5);
  EXPECT_FALSE(std::is_sorted(first.begin(), first.end()));
  EXPECT_EQ(completion_order(5), first);
  EXPECT_NE(completion_order(6), first);
}

TEST(simulated_time, passes_only_as_far_as_something_is_due) {
  boost::asio::io_context io;
  virtual_clock clock(io.get_executor());
  std::vector<int> order;
  clock.schedule(2h, [&order] { order.push_back(2); });
  clock.schedule(1h, [&order] { order.push_back(1); });
  clock.schedule(2h, [&order] { order.push_back(3); });
  test::run_simulation(io, clock, clock.sleep(90min));
  EXPECT_EQ(clock.now(), 90min);
  EXPECT_EQ(order, std::vector<int>{1});
  test::run_simulation(io, clock, clock.sleep(1h));
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(simulated_time, a_deadlock_is_found) {
  boost::asio::io_context io;
  virtual_clock clock(io.get_executor());
  async_event never(io.get_executor());
  EXPECT_THROW(test::run_simulation(io, clock, never.wait()), std::logic_error);
}

}  // namespace
}  // namespace weir
