// What a chain remembers of its owners, against a walk down the layers: deep random chains of raw, qcow2 and QED with
// small metadata caches, while the guest writes, zeroes and discards, with copy-on-read and streaming.
#include "tests/support/disk_world.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr std::uint64_t runs = 4;
#else
constexpr std::uint64_t runs = 40;
#endif

void live_one_life(std::uint64_t seed) {
  disk_world world(
      {.seed = seed, .longest_disk_bytes = seed % 8 == 0 ? 5 * MiB : 96 * KiB, .most_layers = 24});
  world.make_chain();
  SCOPED_TRACE(world.description());
  world.open();
  for (unsigned step = 0; step < 12; ++step) {
    switch (world.random()() % 8) {
      case 0:
        world.start_streaming();
        break;
      case 1:
        world.toggle_copy_on_read();
        break;
      case 2:
        world.close();
        world.open();
        break;
      case 3:
        world.check_content();
        break;
      default:
        world.run_requests();
        break;
    }
    world.check_owners(20);
  }
  world.check_content();
  world.close();
}

TEST(owner_index_model, answers_as_a_walk_does) {
  for (const std::uint64_t seed : seeds(runs)) {
    SCOPED_TRACE("WEIR_SEED=" + std::to_string(seed));
    ASSERT_NO_THROW(live_one_life(seed));
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace weir::test
