// A qcow2 image against an array of sectors: random changes, every geometry, reopened now and then, and found
// clean by an independent checker each time it is closed.
#include "tests/support/qcow2_checker.hpp"
#include "tests/support/qcow2_world.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

/// Adds to `encoded` how many units were written compressed.
void live(const qcow2_settings& settings, int lives, int steps, std::uint64_t& encoded) {
  qcow2_world world(settings);
  SCOPED_TRACE(world.description() + " (WEIR_SEED=" + std::to_string(settings.seed) + ")");
  for (int life = 0; life < lives; ++life) {
    ASSERT_NO_FATAL_FAILURE(world.open());
    for (int step = 0; step < steps; ++step) {
      world.step();
      ASSERT_NO_FATAL_FAILURE(world.expect_content("while open"));
      if (testing::Test::HasFailure()) return;
    }
    const result<void> closed = world.close();
    ASSERT_TRUE(closed.has_value()) << closed.error().message();
    const qcow2_report report = check_qcow2(qcow2_world::bytes_of(world.disk()));
    const bool sound =
        world.forgetful() ? report.errors.empty() && report.leaked_clusters == 0 : report.is_clean();
    ASSERT_TRUE(sound) << "after life " << life << ": " << report.text();
    world.forget_copied_sometimes();
    ASSERT_NO_FATAL_FAILURE(world.open());
    ASSERT_NO_FATAL_FAILURE(world.expect_content("after reopening"));
    ASSERT_TRUE(world.close().has_value());
  }
  encoded += world.encoded_units();
}

TEST(qcow2_model, behaves_like_an_array_and_stays_clean) {
  std::uint64_t encoded = 0;
  std::uint64_t runs = 0;
  for (const std::uint64_t seed : seeds(40)) {
    if (HasFailure()) break;
    live({.seed = seed, .data_files = true}, 3, 24, encoded);
    ++runs;
  }
  EXPECT_GT(encoded, runs) << "compressed writes are part of a life";
}

// 512-byte clusters: a refcount table cluster covers 2 MiB with 64-bit counts, so that the table must grow.
TEST(qcow2_model, grows_its_refcount_table) {
  for (const std::uint64_t seed : seeds(6)) {
    if (HasFailure()) break;
    qcow2_world world({.seed = seed, .largest_size = 12 * MiB, .small_clusters = true});
    SCOPED_TRACE(world.description());
    ASSERT_NO_FATAL_FAILURE(world.open());
    const std::uint64_t sectors = world.size() / world_sector;
    for (std::uint64_t at = 0; at < sectors; at += 900) {
      world.write(at, std::min<std::uint64_t>(700, sectors - at));
      if (at % 3 == 0) world.flush();
    }
    for (int step = 0; step < 30; ++step) world.step();
    ASSERT_NO_FATAL_FAILURE(world.expect_content("grown"));
    ASSERT_TRUE(world.close().has_value());
    const qcow2_report report = check_qcow2(qcow2_world::bytes_of(world.disk()));
    ASSERT_TRUE(report.is_clean()) << report.text();
  }
}

}  // namespace
}  // namespace weir::test
