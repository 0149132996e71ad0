// What a new qcow2 image would take. Pure.
#pragma once

#include "engine/block/format_table.hpp"

namespace weir::qcow2 {

/// As format_driver::measure: header, L1 and L2 tables and the counts of everything allocated, each rounded up as
/// qemu-img measure does.
outcome<size_estimate> measure_image(const image_create_options& options);

}  // namespace weir::qcow2
