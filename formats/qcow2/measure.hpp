// What a new qcow2 image would take. Pure.
#pragma once

#include "engine/block/bitmap_store.hpp"
#include "engine/block/format_table.hpp"

#include <cstdint>
#include <optional>
#include <span>

namespace weir::qcow2 {

/// As format_driver::measure: header, L1 and L2 tables and the counts of everything allocated, each rounded up as
/// qemu-img measure does.
outcome<size_estimate> measure_image(const image_create_options& options);

/// As format_driver::measure_bitmaps: bits, tables and directory, each rounded up as qemu-img measure does.
std::optional<std::uint64_t> measure_bitmaps(const image_create_options& options,
                                             std::span<const kept_bitmap> bitmaps);

}  // namespace weir::qcow2
