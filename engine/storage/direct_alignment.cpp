#include "engine/storage/direct_alignment.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/stat.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <new>

namespace weir {
namespace {

constexpr std::uint32_t largest = 65536;

struct aligned_delete {
  void operator()(std::byte* data) const noexcept { ::operator delete(data, std::align_val_t{largest}); }
};

// What the kernel says; 0 where it says nothing.
direct_alignment reported_alignment(int descriptor) {
  direct_alignment reported{0, 0};
  struct statx status{};
  // The C library's statx would clash with the kernel's declaration, which alone has STATX_DIOALIGN.
  if (::syscall(SYS_statx, descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
      (status.stx_mask & STATX_DIOALIGN) != 0) {
    reported.block = status.stx_dio_offset_align;
    reported.memory = status.stx_dio_mem_align;
  }
  int sector_bytes = 0;
  if (::ioctl(descriptor, BLKSSZGET, &sector_bytes) == 0 && sector_bytes > 0) {
    reported.block = std::max(reported.block, static_cast<std::uint32_t>(sector_bytes));
  }
  if (!std::has_single_bit(reported.block) || reported.block > largest) reported.block = 0;
  if (!std::has_single_bit(reported.memory) || reported.memory > largest) reported.memory = 0;
  return reported;
}

// 0, or why the read failed.
int try_read(int descriptor, std::byte* buffer, std::uint32_t length) {
  ssize_t got = 0;
  do {
    got = ::pread(descriptor, buffer, length, 0);
  } while (got < 0 && errno == EINTR);
  return got < 0 ? errno : 0;
}

}  // namespace

result<direct_alignment> find_direct_alignment(int descriptor, std::uint64_t size) {
  const direct_alignment reported = reported_alignment(descriptor);
  direct_alignment found;
  found.block = std::max<std::uint32_t>(512, reported.block);
  // An empty file answers any read, and proves nothing.
  if (size == 0 && reported.block == 0) found.block = 4096;
  const std::unique_ptr<std::byte, aligned_delete> buffer(
      static_cast<std::byte*>(::operator new(largest, std::align_val_t{largest})));
  int error = EINVAL;
  for (; found.block <= largest; found.block *= 2) {
    error = try_read(descriptor, buffer.get(), found.block);
    if (error != EINVAL) break;
  }
  if (error != 0) return errno_code(error);
  found.memory = reported.memory != 0 ? reported.memory : std::max<std::uint32_t>(found.block, 4096);
  // A read at just that alignment of memory, and not more.
  if (found.memory < largest / 2 && found.block <= largest / 2 &&
      try_read(descriptor, buffer.get() + found.memory, found.block) != 0) {
    found.memory = std::max<std::uint32_t>(found.block, 4096);
  }
  return found;
}

}  // namespace weir
