// Storage on a local file or block device.
//
// Locks are QEMU's (engine/storage/image_lock.hpp) and belong to the open file: the descriptor may be
// duplicated, the file is never opened a second time. With O_DIRECT, what is not aligned goes through bounce
// buffers and a serialised read-modify-write (engine/storage/direct_access.hpp).
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/file_io.hpp"
#include "engine/storage/image_lock.hpp"
#include "engine/storage/storage.hpp"

#include <cstdint>
#include <memory>
#include <string>

namespace weir {

/// QEMU's words.
enum class cache_mode : std::uint8_t {
  writeback,   ///< page cache; flush makes durable
  none,        ///< O_DIRECT; flush makes durable
  directsync,  ///< O_DIRECT; every change is durable when it completes
  unsafe,      ///< page cache; flush does nothing
};

struct local_file_options {
  bool writable = false;
  bool create = false;  ///< make the file, which must not exist; implies writable
  cache_mode cache = cache_mode::writeback;
  image_locking locking = image_locking::exclusive;
};

/// Opens a regular file or block device; "fd:N" uses a duplicate of descriptor N and opens no path (the
/// caller's descriptor stays open; with cache modes none and directsync it gets O_DIRECT). Only regular files
/// grow. Never hangs on a FIFO or touches a character device: they are refused by name. Suspends.
/// Errors: errno values; image_in_use; read_only for a descriptor that cannot write; not_supported for what is
/// neither file nor block device, and where O_DIRECT is refused.
/// Precondition: `io` outlives the storage.
task<outcome<std::unique_ptr<storage>>> open_local_file(file_io& io, std::string path,
                                                        local_file_options options);

}  // namespace weir
