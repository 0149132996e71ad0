// Checking and repairing a QED image (images.md section 4).
//
// Every entry of the L1 table and of all L2 tables names nothing, or something aligned, inside the file and named
// once. Clusters that nothing names are leaks: QED has no counts and no list of free clusters.
//
// Repair, durable before need-check goes:
//   leaks   what leaks at the end of the file is cut off; a leak in the middle cannot be used again and stays
//   all     besides, an entry that names no possible place is cleared, as qemu-img does: the guest range then reads
//           as the backing image or zero, and a finding says which. Two owners of one cluster stay: nobody knows
//           whose data it is.
#pragma once

#include "engine/block/format_table.hpp"

#include <memory>

namespace weir::qed {

/// See format_driver::check.
task<outcome<check_report>> check_image(std::unique_ptr<storage> from, check_options options);

}  // namespace weir::qed
