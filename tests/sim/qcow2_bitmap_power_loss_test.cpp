// Power loss at every write boundary while bitmaps record and are stored: a bitmap found consistent says exactly what
// was stored, and nothing changed since that it should have recorded.
#include "tests/support/bitmap_world.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

namespace weir::test {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

/// True if the life ended before the cut.
bool live_until(bitmap_world& world, std::uint64_t cut) {
  SCOPED_TRACE(world.base.description() + ", cut after " + std::to_string(cut));
  for (int step = 0; step < 6; ++step) world.step();
  world.close();
  world.open();
  world.base.power().cut_after(cut);
  for (int step = 0; step < 8 && world.base.power().on(); ++step) world.step();
  if (world.base.power().on()) {
    world.close();
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

TEST(qcow2_bitmap_power_loss, leaves_no_bitmap_that_lies) {
  const std::uint64_t first = from_environment("WEIR_SEED", 1);
  const std::uint64_t runs = from_environment("WEIR_RUNS", 24);
  int lives = 0;
  for (std::uint64_t seed = first; seed < first + runs; ++seed) {
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
