// Power loss at every write boundary while bitmaps record and are stored: a bitmap found consistent says exactly what
// was stored, and nothing changed since that it should have recorded.
#include "tests/support/bitmap_world.hpp"
#include "tests/support/life_end.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

/// True if the life ended before the cut.
bool live_until(bitmap_world& world, std::uint64_t cut) {
  SCOPED_TRACE(world.base.description() + ", cut after " + std::to_string(cut));
  for (int step = 0; step < 6; ++step) world.step();
  world.close();
  world.open();
  world.base.power().cut_after(cut);
  for (int step = 0; step < 8 && world.base.power().on(); ++step) world.step();
  return end_life(world, world.base, cut, 4);
}

TEST(qcow2_bitmap_power_loss, leaves_no_bitmap_that_lies) {
  int lives = 0;
  for (const std::uint64_t seed : seeds(24)) {
    for (std::uint64_t cut = 0;; ++cut) {
      bitmap_world world({.seed = seed, .largest_size = 24 * KiB});
      world.base.open();
      if (!world.has_bitmaps()) break;
      ++lives;
      const bool ended = live_until(world, cut);
      ASSERT_FALSE(HasFailure()) << "WEIR_SEED=" << seed;
      if (ended) break;
    }
  }
  EXPECT_GT(lives, 100);
}

}  // namespace
}  // namespace weir::test
