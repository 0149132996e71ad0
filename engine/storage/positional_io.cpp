#include "engine/storage/positional_io.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace weir {

result<void> read_fully(int descriptor, std::uint64_t offset, std::span<std::byte> buffer) {
  while (!buffer.empty()) {
    const ssize_t got = ::pread(descriptor, buffer.data(), buffer.size(), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_code(errno);
    if (got == 0) {
      std::memset(buffer.data(), 0, buffer.size());
      return {};
    }
    offset += static_cast<std::uint64_t>(got);
    buffer = buffer.subspan(static_cast<std::size_t>(got));
  }
  return {};
}

result<void> write_fully(int descriptor, std::uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    const ssize_t put = ::pwrite(descriptor, data.data(), data.size(), static_cast<off_t>(offset));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return errno_code(errno);
    offset += static_cast<std::uint64_t>(put);
    data = data.subspan(static_cast<std::size_t>(put));
  }
  return {};
}

bool is_in_memory(int descriptor) noexcept {
  struct statfs system{};
  return ::fstatfs(descriptor, &system) == 0 && system.f_type == TMPFS_MAGIC;
}

bool read_if_cached(int descriptor, std::uint64_t offset, std::span<std::byte> buffer,
                    bool may_wait) noexcept {
  const iovec vector{buffer.data(), buffer.size()};
  const ssize_t got =
      ::preadv2(descriptor, &vector, 1, static_cast<off_t>(offset), may_wait ? RWF_NOWAIT : 0);
  return got >= 0 && static_cast<std::size_t>(got) == buffer.size();
}

bool is_cached(int descriptor, std::uint64_t offset, std::uint64_t length) noexcept {
  // cachestat(2), which the C library of this system may not know yet.
  constexpr long cachestat_number = 451;
  struct range {
    std::uint64_t offset;
    std::uint64_t length;
  } asked{offset, length};
  struct statistics {
    std::uint64_t cached;
    std::uint64_t others[4];
  } told{};
  if (::syscall(cachestat_number, descriptor, &asked, &told, 0) != 0) return false;
  // Pages behind the end may stay in the cache for a while.
  struct stat file{};
  if (::fstat(descriptor, &file) != 0 || static_cast<std::uint64_t>(file.st_size) < offset + length)
    return false;
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  return told.cached == (offset + length + page - 1) / page - offset / page;
}

bool clone_range(int source, std::uint64_t source_offset, int target, std::uint64_t target_offset,
                 std::uint64_t length) noexcept {
  file_clone_range what{};
  what.src_fd = source;
  what.src_offset = source_offset;
  what.src_length = length;
  what.dest_offset = target_offset;
  return ::ioctl(target, FICLONERANGE, &what) == 0;
}

void begin_writeback(int descriptor) noexcept {
  static_cast<void>(::sync_file_range(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE));
}

}  // namespace weir
