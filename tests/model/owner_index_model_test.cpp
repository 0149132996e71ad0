// What a chain remembers of its owners, against a walk down the layers: deep random chains of raw, qcow2 and QED with
// small metadata caches, while the guest writes, zeroes and discards, with copy-on-read, streaming and mirroring.
#include "tests/support/disk_world.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

void live_one_life(std::uint64_t seed) {
  disk_world world(
      {.seed = seed, .longest_disk_bytes = seed % 8 == 0 ? 5 * MiB : 96 * KiB, .most_layers = 24});
  world.make_chain();
  SCOPED_TRACE(world.description());
  world.open();
  for (unsigned step = 0; step < 12; ++step) {
    world.live_a_step(10);
    world.check_owners(20);
  }
  world.check_content();
  world.close();
}

TEST(owner_index_model, answers_as_a_walk_does) {
  for (const std::uint64_t seed : seeds(40)) {
    SCOPED_TRACE("WEIR_SEED=" + std::to_string(seed));
    ASSERT_NO_THROW(live_one_life(seed));
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace weir::test
