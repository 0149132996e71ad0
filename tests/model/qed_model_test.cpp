// QED under random requests that overlap in time, with and without faults: reads see what was written.
// WEIR_SEED=N replays one seed, WEIR_RUNS=N runs more of them.
#include "tests/support/qed_world.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace weir::test {
namespace {

class qed_model : public testing::Test {
 protected:
  template <class Life>
  void for_each_seed(const Life& life) {
    for (const std::uint64_t seed : seeds(40)) {
      if (HasFailure()) return;
      SCOPED_TRACE("WEIR_SEED=" + std::to_string(seed));
      life(seed);
    }
  }
};

TEST_F(qed_model, reads_see_what_was_written_across_reopening) {
  for_each_seed([](std::uint64_t seed) {
    qed_world world({.seed = seed, .with_backing = seed % 3 != 0});
    for (int life = 0; life < 3; ++life) {
      world.run_requests(30);
      world.check_content();
      world.reopen();
    }
    world.close_and_check();
  });
}

TEST_F(qed_model, a_failing_disk_loses_nothing_that_was_answered) {
  for_each_seed([](std::uint64_t seed) {
    qed_world world({.seed = seed, .with_backing = seed % 3 != 0, .errors_per_million = 30'000});
    world.run_requests(60);
    world.disk().set_error_rate(0, 1);
    world.check_content();
    world.reopen();
    world.close_and_check();
  });
}

}  // namespace
}  // namespace weir::test
