// The qcow2 format, versions 2 and 3.
#pragma once

#include "engine/block/format_table.hpp"

namespace weir {

format_driver qcow2_driver();

}  // namespace weir
