// Power loss at every write boundary of a QED image: what was flushed is there, everything else is old or new,
// and the image opens for writing, which walks all its tables. WEIR_SEED=N replays one seed.
#include "tests/support/qed_world.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace weir::test {
namespace {

/// True if the requests ended before the power did.
bool live_until(std::uint64_t seed, std::uint64_t cut, std::uint64_t survival) {
  qed_world world({.seed = seed, .with_backing = seed % 2 == 0});
  world.power().cut_after(cut);
  world.run_requests(14);
  const bool ended = world.power().on();
  world.lose_power(survival);
  world.run_requests(4);
  world.check_content();
  world.close_and_check();
  return ended;
}

TEST(qed_power_loss, at_every_write_boundary_keeps_what_was_flushed) {
  for (const std::uint64_t seed : seeds(12)) {
    for (std::uint64_t cut = 0;; ++cut) {
      SCOPED_TRACE("WEIR_SEED=" + std::to_string(seed) + " cut after " + std::to_string(cut));
      bool ended = false;
      ASSERT_NO_THROW(ended = live_until(seed, cut, (seed + cut) % 7));
      if (HasFailure()) return;
      if (ended) break;
    }
  }
}

}  // namespace
}  // namespace weir::test
