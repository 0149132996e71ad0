// Internal snapshots against arrays of sectors: created, applied, removed between random changes; each reads as it
// did, and an independent checker finds the image clean each time it is closed.
#include "formats/qcow2/qcow2.hpp"
#include "tests/support/qcow2_checker.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/snapshot_world.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

void live(const qcow2_settings& settings, int lives, int steps, std::size_t& most) {
  snapshot_world world(settings);
  SCOPED_TRACE(world.base.description() + " (WEIR_SEED=" + std::to_string(settings.seed) + ")");
  for (int life = 0; life < lives; ++life) {
    ASSERT_NO_FATAL_FAILURE(world.base.open());
    for (int step = 0; step < steps; ++step) {
      if (world.base.draw(4) == 0) {
        world.snapshot_step();
      } else {
        world.base.step();
      }
      ASSERT_NO_FATAL_FAILURE(world.base.expect_content("while open"));
      most = std::max(most, world.count());
      if (testing::Test::HasFailure()) return;
    }
    const result<void> closed = world.base.close();
    ASSERT_TRUE(closed.has_value()) << closed.error().message();
    const qcow2_report report = check_qcow2(qcow2_world::bytes_of(world.base.disk()));
    const bool sound =
        world.base.forgetful() ? report.errors.empty() && report.leaked_clusters == 0 : report.is_clean();
    ASSERT_TRUE(sound) << "after life " << life << ": " << report.text();
    ASSERT_NO_FATAL_FAILURE(world.expect_snapshots(world.base.disk()));
    world.base.forget_copied_sometimes();
  }
}

TEST(qcow2_snapshot_model, snapshots_stay_as_they_were) {
  std::size_t most = 0;
  for (const std::uint64_t seed : seeds(40)) {
    if (HasFailure()) break;
    live({.seed = seed}, 3, 30, most);
  }
  EXPECT_GE(most, 3U) << "few snapshots were ever there";
}

// An L1 table of many clusters wants a run that no refcount block of 512 bytes describes alone.
TEST(qcow2_snapshot_model, tables_longer_than_a_refcount_block) {
  for (const std::uint64_t seed : seeds(2)) {
    if (HasFailure()) break;
    boost::asio::io_context io;
    simulated_disk disk;
    image_create_options options;
    options.virtual_size = 200 * MiB;
    options.options["cluster_size"] = "512";
    options.options["refcount_bits"] = seed % 2 == 0 ? "64" : "16";
    simulated_storage into(disk);
    ASSERT_TRUE(run(io, qcow2_driver().create(into, options)).has_value());
    auto opened = run(io, qcow2_driver().open(std::make_unique<simulated_storage>(disk), {.writable = true}));
    ASSERT_TRUE(opened.has_value());
    image_driver driver(**opened);
    const std::vector<std::byte> data(3000, std::byte{7});
    ASSERT_TRUE(run(io, driver.write(100 * MiB, data)).has_value());
    snapshot_store& snapshots = *(*opened)->snapshots();
    for (const char* name : {"a", "b"}) {
      snapshot_info wanted;
      wanted.name = name;
      const outcome<void> made = run(io, snapshots.create(wanted));
      ASSERT_TRUE(made.has_value()) << made.error().what;
    }
    ASSERT_TRUE(run(io, snapshots.apply("1")).has_value());
    ASSERT_TRUE(run(io, driver.write(50 * MiB, data)).has_value());
    ASSERT_TRUE(run(io, snapshots.remove("1")).has_value());
    ASSERT_TRUE(run(io, (*opened)->close()).has_value());
    const qcow2_report report = check_qcow2(qcow2_world::bytes_of(disk));
    EXPECT_TRUE(report.is_clean()) << report.text();
  }
}

}  // namespace
}  // namespace weir::test
