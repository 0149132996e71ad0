// Creating empty qcow2 images.
#pragma once

#include "engine/block/format_table.hpp"

namespace weir::qcow2 {

/// As format_driver::create. Options, as qemu-img spells them: compat (0.10, v2, 1.1, v3), cluster_size,
/// refcount_bits, lazy_refcounts, compression_type (zlib, zstd), extended_l2, preallocation (off, metadata,
/// falloc, full), data_file, data_file_raw.
task<outcome<void>> create_image(storage& into, image_create_options options);

}  // namespace weir::qcow2
