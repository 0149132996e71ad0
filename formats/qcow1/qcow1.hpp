#pragma once

#include "engine/block/format_table.hpp"

namespace weir {

/// Format `qcow`: version 1, plain, compressed or AES-encrypted (with a passphrase), read-only. Data is read by libqcow
/// in a process of its own (formats/qcow1/decoded_image.hpp), or by weir itself where libqcow is wrong (qcow1_image.hpp).
format_driver qcow1_driver();

namespace qcow1 {

/// The image as weir itself maps it, which needs neither helper nor descriptor; right for what is not encrypted. Takes
/// the storage over. Failures as of format_driver::open.
task<outcome<std::unique_ptr<image>>> open_map(std::unique_ptr<storage> from, image_open_options options);

}  // namespace qcow1
}  // namespace weir
