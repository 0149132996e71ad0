// Image locks that QEMU respects and that respect QEMU's (its block/file-posix.c).
//
// Each permission has two bytes in the file: BASE 100 + bit is read-locked by who holds the permission, BASE
// 200 + bit by who does not let others hold it. Taking a permission then asks (F_OFD_GETLK) whether anyone has
// the opposite byte locked. The locks are open file description locks: they live until the last duplicate of
// the descriptor is closed, or until unlock_image.
#pragma once

#include "engine/base/error.hpp"

#include <cstdint>
#include <string_view>

namespace weir {

enum class image_locking : std::uint8_t {
  exclusive,  ///< as QEMU does for an image file: many readers or one writer
  share,      ///< a reader that tolerates writers and resizing (QEMU's force-share); as exclusive for writers
  off,        ///< nothing taken, nothing asked
};

/// `location` names the image in the failure. Where the system has no such locks nothing is locked, as in
/// QEMU. Errors: image_in_use; ENOLCK and the like.
outcome<void> lock_image(int descriptor, std::string_view location, bool writable, image_locking locking);
/// Drops what lock_image took, for descriptors whose open file lives on.
void unlock_image(int descriptor) noexcept;

}  // namespace weir
