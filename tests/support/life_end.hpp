// How lives end whose power is cut after some number of writes.
#pragma once

#include "tests/support/qcow2_world.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <string>

namespace weir::test {

/// Closes what still runs and looks at what `survivals` power losses, each keeping other unflushed writes, leave of
/// it. `base` is what `world` stands on, or `world` itself. True if the life ended before the cut.
template <class World>
bool end_life(World& world, qcow2_world& base, std::uint64_t cut, std::uint64_t survivals) {
  if (base.power().on()) {
    static_cast<void>(world.close());
  } else {
    base.abandon();
  }
  const bool ended = base.power().on();
  for (std::uint64_t survival = 0; survival < survivals && !testing::Test::HasFailure(); ++survival) {
    SCOPED_TRACE("survival " + std::to_string(survival));
    world.expect_survival(survival + 1 == survivals ? survival + cut : survival);
  }
  return ended;
}

}  // namespace weir::test
