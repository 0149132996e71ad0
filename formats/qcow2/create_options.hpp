// The -o options of a new qcow2 image, as typed, turned into a header. Pure.
#pragma once

#include "engine/block/format_table.hpp"
#include "formats/qcow2/header.hpp"

namespace weir::qcow2 {

/// How much of a new image exists before anything is written. qemu-img's words.
enum class preallocation : std::uint8_t {
  off,
  metadata,  ///< every cluster has its place; its bytes are holes
  falloc,    ///< the bytes are reserved
  full,      ///< the bytes are written
};

/// Precondition: parse_create_options accepted the options.
preallocation preallocation_of(const image_create_options& options);

/// Version, geometry, features, virtual size (rounded up to 512, as qemu-img does) and backing of the new
/// image; tables are not placed yet. Errors name the option and its value.
outcome<header> parse_create_options(const image_create_options& options);

}  // namespace weir::qcow2
