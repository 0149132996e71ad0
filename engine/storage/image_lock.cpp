#include "engine/storage/image_lock.hpp"

#include <fcntl.h>

#include <array>
#include <cerrno>
#include <string>

namespace weir {
namespace {

// QEMU's BLK_PERM_ bits.
constexpr unsigned consistent_read = 1U << 0;
constexpr unsigned write = 1U << 1;
constexpr unsigned resize = 1U << 3;
constexpr std::array<const char*, 4> permission_names{"consistent read", "write", "write unchanged",
                                                      "resize"};

constexpr off_t held_base = 100;
constexpr off_t unshared_base = 200;

struct flock lock_of(short type, off_t base, unsigned bit) {
  struct flock lock{};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = base + static_cast<off_t>(bit);
  lock.l_len = 1;
  return lock;
}

int take(int descriptor, off_t base, unsigned permissions) {
  for (unsigned bit = 0; bit < permission_names.size(); ++bit) {
    if ((permissions >> bit & 1) == 0) continue;
    struct flock lock = lock_of(F_RDLCK, base, bit);
    if (::fcntl(descriptor, F_OFD_SETLK, &lock) != 0) return errno;
  }
  return 0;
}

// The name of the first of `permissions` that someone else has locked at `base`; null if none.
const char* find_conflict(int descriptor, off_t base, unsigned permissions) {
  for (unsigned bit = 0; bit < permission_names.size(); ++bit) {
    if ((permissions >> bit & 1) == 0) continue;
    struct flock lock = lock_of(F_WRLCK, base, bit);
    if (::fcntl(descriptor, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK) return permission_names[bit];
  }
  return nullptr;
}

failure in_use(std::string_view location, const char* permission, bool shared) {
  std::string why = "image is in use by another process (failed to get ";
  why.append(shared ? "shared \"" : "\"").append(permission).append("\" lock); ");
  why.append("stop whatever has it open, or work on a copy");
  return make_failure(errc::image_in_use, location, why);
}

}  // namespace

outcome<void> lock_image(int descriptor, std::string_view location, bool writable, image_locking locking) {
  if (locking == image_locking::off) return {};
  const unsigned held = writable ? consistent_read | write | resize : consistent_read;
  const unsigned unshared = !writable && locking == image_locking::share ? 0 : write | resize;
  int error = take(descriptor, held_base, held);
  if (error == 0) error = take(descriptor, unshared_base, unshared);
  // A system without open file description locks.
  if (error == EINVAL || error == ENOSYS || error == EOPNOTSUPP) return {};
  if (error != 0) {
    unlock_image(descriptor);
    return make_failure(errno_code(error), location, "cannot lock the image: " + errno_code(error).message());
  }
  const char* refused = find_conflict(descriptor, unshared_base, held);
  const char* disturbed = refused == nullptr ? find_conflict(descriptor, held_base, unshared) : nullptr;
  if (refused == nullptr && disturbed == nullptr) return {};
  unlock_image(descriptor);
  return in_use(location, refused != nullptr ? refused : disturbed, refused == nullptr);
}

void unlock_image(int descriptor) noexcept {
  for (const off_t base : {held_base, unshared_base}) {
    struct flock lock = lock_of(F_UNLCK, base, 0);
    lock.l_len = static_cast<off_t>(permission_names.size());
    ::fcntl(descriptor, F_OFD_SETLK, &lock);
  }
}

}  // namespace weir
