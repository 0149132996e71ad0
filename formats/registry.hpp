// The formats this build knows, in probing order.
#pragma once

#include "engine/block/format_table.hpp"

namespace weir {

const format_table& formats();

}  // namespace weir
