// The -o options of a new qcow2 image, as typed, turned into a header. Pure.
#pragma once

#include "engine/block/format_table.hpp"
#include "formats/qcow2/header.hpp"

namespace weir::qcow2 {

/// Version, geometry, features, virtual size (rounded up to 512, as qemu-img does) and backing of the new
/// image; tables are not placed yet. Errors name the option and its value.
outcome<header> parse_create_options(const image_create_options& options);

}  // namespace weir::qcow2
