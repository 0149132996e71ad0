// Changes of the size of a whole qcow2 image, and of everything in it at once: a power loss at every write boundary
// leaves the old disk or the new one; a failed read leaves nothing that is named and not counted.
#include "tests/support/life_end.hpp"
#include "tests/support/qcow2_checker.hpp"
#include "tests/support/qcow2_world.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

#include <functional>

namespace weir::test {
namespace {

/// The world after a life that wrote most of it. `cut_short`: its tables say more than its header, often whole L2
/// tables more.
std::unique_ptr<qcow2_world> lived(std::uint64_t seed, bool cut_short) {
  const bool small = cut_short && seed % 4 == 0;
  const qcow2_settings settings{.seed = seed,
                                .largest_size = small ? 192 * KiB : 64 * KiB,
                                .small_clusters = small,
                                .data_files = true};
  auto world = std::make_unique<qcow2_world>(settings);
  world->open();
  for (int step = 0; step < 10; ++step) world->step();
  world->write(0, world->oracle().count());
  EXPECT_TRUE(world->close().has_value());
  world->disk().settle_all();
  const std::uint64_t sectors = world->size() / world_sector;
  if (cut_short && sectors > 1) world->cut_header((1 + world->draw(sectors - 1)) * world_sector);
  return world;
}

TEST(qcow2_resize, at_every_write_boundary_is_done_or_not_begun) {
  for (const std::uint64_t seed : seeds(60)) {
    for (std::uint64_t cut = 0;; ++cut) {
      const auto world = lived(seed, seed % 2 == 0);
      SCOPED_TRACE(world->description() + ", cut after " + std::to_string(cut));
      world->open();
      world->power().cut_after(cut);
      world->resize((1 + world->draw(512)) * world_sector);
      const bool ended = end_life(*world, *world, cut, 4);
      ASSERT_FALSE(HasFailure()) << "WEIR_SEED=" << seed;
      if (ended) break;
    }
  }
}

/// `change` with the n-th read failing, for every n there is.
void fail_each_read(std::uint64_t runs, const std::function<bool(qcow2_world&)>& change) {
  for (const std::uint64_t seed : seeds(runs)) {
    for (std::uint64_t read = 0;; ++read) {
      const auto world = lived(seed, false);
      SCOPED_TRACE(world->description() + ", read " + std::to_string(read) + " fails");
      world->open();
      world->disk().inject({.operation = disk_operation::read, .skip_count = read, .count = 1});
      const bool done = change(*world);
      world->disk().clear_faults();
      static_cast<void>(world->close());
      const qcow2_report report = check_qcow2(qcow2_world::bytes_of(world->disk()));
      ASSERT_TRUE(report.errors.empty()) << "WEIR_SEED=" << seed << ": " << report.text();
      if (done) break;
    }
  }
}

TEST(qcow2_resize, a_failed_read_while_emptying_leaves_a_sound_image) {
  fail_each_read(80,
                 [](qcow2_world& world) { return run(world.io(), world.target().make_empty()).has_value(); });
}

TEST(qcow2_resize, a_failed_read_while_shrinking_leaves_a_sound_image) {
  fail_each_read(80,
                 [](qcow2_world& world) { return run(world.io(), world.target().resize(512)).has_value(); });
}

}  // namespace
}  // namespace weir::test
