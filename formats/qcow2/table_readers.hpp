// Reads the snapshot table and the bitmap directory from a file, no more than they claim to be and within the
// limits of their parsers.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"
#include "formats/qcow2/bitmap_directory.hpp"
#include "formats/qcow2/header.hpp"
#include "formats/qcow2/snapshot_table.hpp"

#include <optional>
#include <vector>

namespace weir::qcow2 {

/// The snapshots `head` names; none is an empty table. Errors: an entry past the end of the file or above a
/// limit (nothing behind it can be read); I/O.
task<outcome<snapshot_table>> read_snapshot_table(storage& file, const header& head);

struct bitmap_directory {
  bitmaps_place place;
  std::vector<bitmap_entry> entries;
};

/// The bitmaps that `head` names, whether its autoclear bit vouches for them or not; nothing where it names none.
task<outcome<std::optional<bitmap_directory>>> read_bitmap_directory(storage& file, const header& head);

}  // namespace weir::qcow2
