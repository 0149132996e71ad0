#pragma once

#include "engine/block/format_table.hpp"

namespace weir {

format_driver qed_driver();

}  // namespace weir
