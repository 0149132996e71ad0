// Power loss at every write boundary while snapshots are created, applied and removed: the disk and each snapshot read
// as before or as after, and nothing a pointer leads to is counted too low.
#include "tests/support/snapshot_world.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

namespace weir::test {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

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
  if (world.base.power().on()) {
    static_cast<void>(world.base.close());
  } else {
    world.base.abandon();
  }
  const bool ended = world.base.power().on();
  for (std::uint64_t survival = 0; survival < 4 && !testing::Test::HasFailure(); ++survival) {
    SCOPED_TRACE("survival " + std::to_string(survival));
    world.expect_survival(survival == 3 ? 3 + cut : survival);
  }
  return ended;
}

TEST(qcow2_snapshot_power_loss, leaves_each_snapshot_as_it_was) {
  const std::uint64_t first = from_environment("WEIR_SEED", 1);
  const std::uint64_t runs = from_environment("WEIR_RUNS", 16);
  for (std::uint64_t seed = first; seed < first + runs; ++seed) {
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
