#pragma once

#include "engine/block/format_table.hpp"

namespace weir {

format_driver raw_driver();

}  // namespace weir
