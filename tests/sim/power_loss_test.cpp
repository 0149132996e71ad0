// Power loss at every write boundary: what was flushed is there, everything else is old or new, and every image opens.
#include "tests/support/disk_world.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

/// One life with the power cut after `cut` changes of the media (counted from opening). True if it ended before.
bool live_until(std::uint64_t seed, std::uint64_t cut, std::uint64_t survival) {
  world_settings settings;
  settings.seed = seed;
  settings.longest_disk_bytes = 24 * KiB;
  disk_world world(settings);
  world.make_chain();
  SCOPED_TRACE(world.description());
  world.open();
  world.power().cut_after(cut);
  if (seed % 3 == 0) world.start_streaming();
  if (seed % 3 == 1) world.start_committing();
  for (int step = 0; step < 4 && world.power().on(); ++step) world.run_requests();
  world.finish_job();
  const bool ended = world.power().on();
  world.lose_power(survival);
  return ended;
}

TEST(power_loss, at_every_write_boundary_keeps_what_was_flushed) {
  for (const std::uint64_t seed : seeds(60)) {
    for (std::uint64_t cut = 0;; ++cut) {
      const std::uint64_t survival = (seed + cut) % 7;
      SCOPED_TRACE("WEIR_SEED=" + std::to_string(seed) + " cut after " + std::to_string(cut) + " survival " +
                   std::to_string(survival));
      bool ended = false;
      ASSERT_NO_THROW(ended = live_until(seed, cut, survival));
      if (testing::Test::HasFailure()) return;
      if (ended) break;
    }
  }
}

}  // namespace
}  // namespace weir::test
