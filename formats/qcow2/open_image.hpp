// Opening a qcow2 image: everything that can be checked before the first request.
#pragma once

#include "engine/block/format_table.hpp"

#include <memory>

namespace weir::qcow2 {

/// As format_driver::open.
task<outcome<std::unique_ptr<image>>> open_image(std::unique_ptr<storage> from, image_open_options options);

}  // namespace weir::qcow2
