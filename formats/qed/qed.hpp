#pragma once

#include "engine/block/format_table.hpp"

namespace weir {

/// Create options: cluster_size (4K … 64M, 64K if not given), table_size (1, 2, 4, 8 or 16 clusters, 4 if not
/// given).
format_driver qed_driver();

}  // namespace weir
