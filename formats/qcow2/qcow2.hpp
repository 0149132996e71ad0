#pragma once

#include "engine/block/format_table.hpp"

namespace weir {

format_driver qcow2_driver();

}  // namespace weir
