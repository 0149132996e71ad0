// Opens layers that lie in local files, block devices and descriptors handed in.
#pragma once

#include "engine/block/open_chain.hpp"
#include "engine/storage/local_file.hpp"

namespace weir {

/// An opener whose files have the given cache mode and locking. A path of "fd:N", or an fd_group of N, is descriptor
/// N and no path is opened. A file that turns out to be a block device gets source.type "block".
/// Network sources are refused by name. `io` must outlive what is opened.
storage_opener make_local_opener(file_io& io, cache_mode cache, image_locking locking);

}  // namespace weir
