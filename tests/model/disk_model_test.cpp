// The whole block layer against a byte array: random chains, requests side by side with copy-on-read and streaming,
// on media with latency, with and without faults.
#include "tests/support/disk_world.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

void live_one_life(world_settings settings) {
  disk_world world(settings);
  world.make_chain();
  SCOPED_TRACE(world.description());
  world.open();
  const std::uint64_t steps = 4 + world.random()() % 12;
  for (std::uint64_t step = 0; step < steps; ++step) world.live_a_step(14);
  world.check_content();
  world.close();
  world.check_content();
}

void live_many_lives(std::uint64_t first, std::uint64_t runs, std::uint32_t errors_per_million,
                     link_cuts cuts = link_cuts::none) {
  // These lives are long: under the sanitizers a share of the share.
  for (const std::uint64_t seed : seeds(runs / campaign_share, first)) {
    world_settings settings;
    settings.seed = seed;
    settings.errors_per_million = errors_per_million;
    settings.cuts = cuts;
    SCOPED_TRACE("WEIR_SEED=" + std::to_string(settings.seed));
    ASSERT_NO_THROW(live_one_life(settings));
    if (testing::Test::HasFailure()) return;
  }
}

TEST(disk_model, reads_what_was_written_on_sound_media) {
  live_many_lives(1, 5000, 0);
}

TEST(disk_model, keeps_neighbours_safe_on_failing_media) {
  live_many_lives(100'001, 5000, 20'000);
}

TEST(disk_model, remote_layers_that_come_back_in_time_are_only_waited_for) {
  live_many_lives(200'001, 3000, 0, link_cuts::shorter_than_the_limit);
}

TEST(disk_model, remote_layers_that_stay_away_give_errors_and_never_wrong_data) {
  live_many_lives(300'001, 3000, 0, link_cuts::longer_too);
}

}  // namespace
}  // namespace weir::test
