// Power loss at every write boundary of a qcow2 image's life: no pointer to an uncounted or missing cluster is
// ever on the disk, what was flushed is there, and the image can be written again.
#include "tests/support/qcow2_world.hpp"

#include <gtest/gtest.h>

#include <cstdlib>

namespace weir::test {
namespace {

std::uint64_t from_environment(const char* name, std::uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text != nullptr ? std::strtoull(text, nullptr, 10) : otherwise;
}

/// One life with the power cut after `cut` operations. True if the life ended before.
bool live_until(const qcow2_settings& settings, std::uint64_t cut) {
  qcow2_world world(settings);
  SCOPED_TRACE(world.description() + ", cut after " + std::to_string(cut));
  world.open();
  world.power().cut_after(cut);
  for (int step = 0; step < 14 && world.power().on(); ++step) world.step();
  if (world.power().on()) {
    const result<void> closed = world.close();
    static_cast<void>(closed);
  } else {
    world.abandon();
  }
  const bool ended = world.power().on();
  for (std::uint64_t survival = 0; survival < 5 && !testing::Test::HasFailure(); ++survival) {
    SCOPED_TRACE("survival " + std::to_string(survival));
    world.expect_survival(survival == 4 ? 4 + cut : survival);
  }
  return ended;
}

TEST(qcow2_power_loss, at_every_write_boundary_keeps_what_was_flushed) {
  const std::uint64_t first = from_environment("WEIR_SEED", 1);
  const std::uint64_t runs = from_environment("WEIR_RUNS", 40);
  for (std::uint64_t seed = first; seed < first + runs; ++seed) {
    for (std::uint64_t cut = 0;; ++cut) {
      const bool ended = live_until({.seed = seed, .largest_size = 24 * KiB}, cut);
      ASSERT_FALSE(HasFailure()) << "WEIR_SEED=" << seed;
      if (ended) break;
    }
  }
}

}  // namespace
}  // namespace weir::test
