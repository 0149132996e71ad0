#pragma once

#include "engine/block/format_table.hpp"

namespace weir {

/// Raw has no magic, so no probe. Create options: preallocation=off|falloc|full.
format_driver raw_driver();

}  // namespace weir
