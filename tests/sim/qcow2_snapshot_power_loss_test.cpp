// Power loss at every write boundary while snapshots are created, applied and removed: the disk and each snapshot read
// as before or as after, and nothing a pointer leads to is counted too low.
#include "tests/support/life_end.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/snapshot_world.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

/// True if the life ended before the cut.
bool live_until(snapshot_world& world, std::uint64_t cut) {
  SCOPED_TRACE(world.base.description() + ", cut after " + std::to_string(cut));
  world.base.open();
  for (int step = 0; step < 6; ++step) world.base.step();
  world.snapshot_step();
  world.base.power().cut_after(cut);
  for (int step = 0; step < 8 && world.base.power().on(); ++step) {
    if (step % 2 == 0) {
      world.base.step();
    } else {
      world.snapshot_step();
    }
  }
  return end_life(world, world.base, cut, 4);
}

TEST(qcow2_snapshot_power_loss, leaves_each_snapshot_as_it_was) {
  for (const std::uint64_t seed : seeds(16)) {
    for (std::uint64_t cut = 0;; ++cut) {
      snapshot_world world({.seed = seed, .largest_size = 24 * KiB});
      if (world.base.forgetful()) {
        world.base.open();
        for (int step = 0; step < 8; ++step) world.base.step();
        ASSERT_TRUE(world.base.close().has_value());
        world.base.forget_copied_sometimes();
      }
      const bool ended = live_until(world, cut);
      ASSERT_FALSE(HasFailure()) << "WEIR_SEED=" << seed;
      if (ended) break;
    }
  }
}

}  // namespace
}  // namespace weir::test
