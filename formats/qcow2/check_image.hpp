// Checking and repairing a qcow2 image (images.md sections 2 and 3).
//
//   reference_survey   counts what the image's structures reference
//   stored_counts      compares with the refcounts; raises, lowers
//   count_rebuild      writes a new refcount structure where the old one is damaged or too short
//   entry_mender       COPIED flags and single entries
//
// The order of a repair, durable after each step, so that an interruption leaves the image no worse:
//   1  counts are raised to the references, or a new structure is written and switched to
//   2  entries are put right, COPIED is cleared where clusters are shared
//   3  counts that are too high are lowered
//   4  COPIED is set where clusters count one
//   5  the image is checked again; if nothing is wrong any more, the dirty and corrupt bits are cleared
//
// Nothing is guessed. Data in an impossible place is reported with its guest range and left as it is, as
// qemu-img does; unlike there, leaked clusters are then kept too, since they may be that data.
#pragma once

#include "engine/block/format_table.hpp"
#include "formats/qcow2/header.hpp"

#include <memory>

namespace weir::qcow2 {

/// See format_driver::check. Needs no key: encrypted payload is not looked at.
task<outcome<check_report>> check_image(std::unique_ptr<storage> from, check_options options);

/// Repairs the counts of an image that was not closed cleanly, as opening it for writing demands, and clears its
/// dirty bit. Refused, with nothing changed, if more than that is wrong. On success the header has changed.
task<outcome<void>> recover_counts(storage& file, const header& head);

}  // namespace weir::qcow2
