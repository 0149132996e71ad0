// Persistent bitmaps against bit arrays: added, removed, merged, cleared between random changes of content, stored and
// loaded again; an independent checker finds the image clean each time it is closed.
#include "tests/support/bitmap_world.hpp"
#include "tests/support/qcow2_checker.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

void live(const qcow2_settings& settings, int lives, int steps) {
  bitmap_world world(settings);
  SCOPED_TRACE(world.base.description() + " (WEIR_SEED=" + std::to_string(settings.seed) + ")");
  for (int life = 0; life < lives; ++life) {
    ASSERT_NO_FATAL_FAILURE(world.base.open());
    const bool possible = world.has_bitmaps();
    ASSERT_TRUE(world.base.close().has_value());
    if (!possible) return;
    ASSERT_NO_FATAL_FAILURE(world.open());
    for (int step = 0; step < steps && !testing::Test::HasFailure(); ++step) world.step();
    ASSERT_NO_FATAL_FAILURE(world.base.expect_content("while open"));
    world.close();
    const qcow2_report report = check_qcow2(qcow2_world::bytes_of(world.base.disk()));
    ASSERT_TRUE(report.is_clean()) << "after life " << life << ": " << report.text();
    if (testing::Test::HasFailure()) return;
  }
  ASSERT_NO_FATAL_FAILURE(world.open());
  world.close();
}

TEST(qcow2_bitmap_model, bits_are_what_changed) {
  for (const std::uint64_t seed : seeds(40)) {
    if (!HasFailure()) live({.seed = seed}, 4, 30);
  }
}

// 512-byte clusters hold the bits of 2 MiB at the finest granularity: tables of several entries, some of them all
// clear, some all set.
TEST(qcow2_bitmap_model, bits_of_many_clusters) {
  for (const std::uint64_t seed : seeds(4)) {
    if (HasFailure()) break;
    bitmap_world world({.seed = seed, .largest_size = 24 * MiB, .small_clusters = true});
    ASSERT_NO_FATAL_FAILURE(world.base.open());
    if (!world.has_bitmaps()) continue;
    for (int step = 0; step < 20; ++step) world.step();
    const std::uint64_t sectors = world.base.oracle().count();
    world.change(sectors / 5, sectors / 2);
    world.step();
    world.close();
    ASSERT_NO_FATAL_FAILURE(world.open());
    for (int step = 0; step < 20; ++step) world.step();
    world.close();
    const qcow2_report report = check_qcow2(qcow2_world::bytes_of(world.base.disk()));
    ASSERT_TRUE(report.is_clean()) << report.text();
  }
}

}  // namespace
}  // namespace weir::test
