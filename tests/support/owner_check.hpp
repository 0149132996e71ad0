// Compares what a chain says about who owns a range with a walk down its layers.
#pragma once

#include "engine/base/task.hpp"
#include "engine/block/chain.hpp"

namespace weir::test {

/// Fails the test where chain::lookup and a plain walk disagree anywhere in `range`. Precondition: nothing else
/// changes the chain meanwhile; the media have no faults.
task<void> expect_same_owners(const chain& layers, byte_range range, depth_range among, map_effort effort);

}  // namespace weir::test
