// Opening and creating QED images (images.md section 4).
#pragma once

#include "engine/block/format_table.hpp"
#include "formats/qed/header.hpp"

namespace weir::qed {

/// Reads and parses the header. Failures name the file.
task<outcome<header>> read_header(storage& file);

/// For reading, anything with a sound header opens; entries that point nowhere valid fail when they are
/// mapped. For writing, the tables must be sound too, and after an unclean shutdown every cluster is checked;
/// unknown autoclear features are cleared. See format_driver::open.
task<outcome<std::unique_ptr<image>>> open_image(std::unique_ptr<storage> from, image_open_options options);

/// See format_driver::create.
task<outcome<void>> create_image(storage& into, image_create_options options);

}  // namespace weir::qed
