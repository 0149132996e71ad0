#include "engine/base/buffer_pool.hpp"

#include "tests/support/run_task.hpp"

#include <gtest/gtest.h>

namespace weir {
namespace {

TEST(buffer_pool, waits_in_order_once_the_limit_is_lent) {
  boost::asio::io_context io;
  buffer_pool pool(io.get_executor(), 64 * 1024);
  buffer_lease first = test::run(io, pool.acquire(40 * 1024));
  std::vector<int> order;
  const auto user = [&](int number, std::size_t length) -> task<void> {
    const buffer_lease lease = co_await pool.acquire(length);
    order.push_back(number);
  };
  io.restart();
  test::start(io, user(1, 32 * 1024));
  test::start(io, user(2, 4096));
  io.poll();
  EXPECT_TRUE(order.empty());
  first.reset();
  io.poll();
  EXPECT_EQ(order, (std::vector<int>{1, 2}));
  EXPECT_EQ(pool.lent_bytes(), 0U);
}

TEST(buffer_pool, grants_one_lease_over_the_limit_alone) {
  boost::asio::io_context io;
  buffer_pool pool(io.get_executor(), 4096);
  const buffer_lease lease = test::run(io, pool.acquire(1 << 20));
  EXPECT_EQ(lease.size(), 1U << 20);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(lease.data()) % buffer_pool::alignment, 0U);
}

TEST(buffer_pool, keeps_no_more_than_it_may_whatever_was_lent) {
  boost::asio::io_context io;
  buffer_pool pool(io.get_executor(), std::size_t{1} << 30);
  for (std::size_t length = 4096; length <= buffer_pool::largest_lease / 4; length *= 2) {
    std::vector<buffer_lease> leases;
    for (int count = 0; count < 20; ++count) leases.push_back(test::run(io, pool.acquire(length)));
  }
  EXPECT_EQ(pool.lent_bytes(), 0U);
  EXPECT_LE(pool.kept_bytes(), buffer_pool::most_kept_bytes);
  EXPECT_GT(pool.kept_bytes(), 0U);
}

}  // namespace
}  // namespace weir
