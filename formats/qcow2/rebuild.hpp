// Rebuilding all refcounts of an image whose dirty bit is set (images.md section 3, lazy refcounts).
//
// The old counts are not trusted and not touched. The references are counted from the L1 and L2 tables; a new
// refcount table and new blocks with exact counts are written behind the end of the file and flushed; then
// one write of the header's first sector switches to them and clears the dirty bit. Power loss before that
// leaves the image as it was. The old table and blocks, and everything leaked, are free afterwards.
//
// Refused, with advice, where counting the active tables would not be the whole truth: internal snapshots,
// bitmaps, a storage that cannot grow, clusters referenced twice.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"
#include "formats/qcow2/header.hpp"

namespace weir::qcow2 {

/// The header on the storage has changed on success: read it again.
task<outcome<void>> rebuild_refcounts(storage& file, const header& head);

}  // namespace weir::qcow2
