// Power loss at every write boundary of a qcow2 image's life: no pointer to an uncounted or missing cluster is
// ever on the disk, what was flushed is there, and the image can be written again.
#include "tests/support/life_end.hpp"
#include "tests/support/qcow2_world.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

/// The life that follows, with the power cut after `cut` operations. True if it ended before.
bool live_until(qcow2_world& world, std::uint64_t cut) {
  SCOPED_TRACE(world.description() + ", cut after " + std::to_string(cut));
  world.open();
  world.power().cut_after(cut);
  for (int step = 0; step < 14 && world.power().on(); ++step) world.step();
  return end_life(world, world, cut, 5);
}

TEST(qcow2_power_loss, at_every_write_boundary_keeps_what_was_flushed) {
  for (const std::uint64_t seed : seeds(40)) {
    for (std::uint64_t cut = 0;; ++cut) {
      qcow2_world world({.seed = seed, .largest_size = 24 * KiB, .data_files = true});
      if (world.forgetful()) {
        world.open();
        for (int step = 0; step < 8; ++step) world.step();
        ASSERT_TRUE(world.close().has_value());
        world.forget_copied_sometimes();
      }
      const bool ended = live_until(world, cut);
      ASSERT_FALSE(HasFailure()) << "WEIR_SEED=" << seed;
      if (ended) break;
    }
  }
}

// One cluster of a refcount table of 64-bit counts covers 2 MiB: the life begins just below and goes beyond.
TEST(qcow2_power_loss, while_the_refcount_table_grows) {
  for (const std::uint64_t seed : seeds(3)) {
    for (std::uint64_t cut = 0;; cut += campaign_share * (1 + seed % 3)) {
      qcow2_world world(
          {.seed = seed, .largest_size = 12 * MiB, .small_clusters = true, .widest_counts = true});
      if (world.size() < 3 * MiB) break;
      world.open();
      world.write(0, 3700);
      ASSERT_TRUE(world.close().has_value());
      world.disk().settle_all();
      ASSERT_LT(world.disk().size(), 2 * MiB);
      world.open();
      world.power().cut_after(cut);
      for (std::uint64_t at = 3700; at < 3700 + 400 && world.power().on(); at += 100) {
        world.write(at, 100);
        if (at % 200 == 0) world.flush();
      }
      world.abandon();
      for (std::uint64_t survival = 0; survival < 3; ++survival) {
        SCOPED_TRACE("cut after " + std::to_string(cut) + ", survival " + std::to_string(survival));
        ASSERT_NO_FATAL_FAILURE(world.expect_survival(survival == 2 ? 2 + cut : survival));
      }
      ASSERT_FALSE(HasFailure()) << "WEIR_SEED=" << seed;
      if (!world.power().on()) continue;
      ASSERT_GT(world.disk().size(), 2 * MiB) << "the table has not grown";
      break;
    }
  }
}

}  // namespace
}  // namespace weir::test
