#include "engine/storage/opened_file.hpp"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <string_view>

namespace weir {
namespace {

constexpr std::string_view descriptor_prefix = "fd:";

bool wants_direct(cache_mode cache) {
  return cache == cache_mode::none || cache == cache_mode::directsync;
}

failure errno_failure(const std::string& path) {
  return make_failure(errno_code(errno), path);
}

// What is neither a regular file nor a block device, by name.
std::optional<failure> kind_failure(const std::string& path, mode_t mode) {
  if (S_ISREG(mode) || S_ISBLK(mode)) return std::nullopt;
  if (S_ISDIR(mode)) return make_failure(errno_code(EISDIR), path, "is a directory");
  const char* what = "is neither a file nor a block device";
  if (S_ISFIFO(mode)) what = "is a FIFO, not a file or block device";
  if (S_ISSOCK(mode)) what = "is a socket, not a file or block device";
  if (S_ISCHR(mode)) what = "is a character device, not a file or block device";
  return make_failure(errc::not_supported, path, what);
}

failure direct_refused(const std::string& path, error_code code) {
  return make_failure(errc::not_supported, path,
                      "the file system refuses O_DIRECT (" + code.message() + "); use cache mode writeback");
}

outcome<file_descriptor> open_path(const std::string& path, const local_file_options& options) {
  int flags = (options.writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  if (options.create) {
    flags |= O_CREAT | O_EXCL;
  } else {
    // Merely opening a character device can do harm; the check on the open file comes below.
    struct stat status{};
    if (::stat(path.c_str(), &status) != 0) return errno_failure(path);
    if (std::optional<failure> wrong = kind_failure(path, status.st_mode)) return std::move(*wrong);
  }
  if (wants_direct(options.cache)) flags |= O_DIRECT;
  if (options.cache == cache_mode::directsync) flags |= O_DSYNC;
  file_descriptor opened(::open(path.c_str(), flags, 0644));
  if (opened) return opened;
  const error_code code = errno_code(errno);
  if (code.value() != EINVAL || (flags & O_DIRECT) == 0) return make_failure(code, path);
  if (options.create) ::unlink(path.c_str());
  return direct_refused(path, code);
}

outcome<file_descriptor> duplicate(const std::string& path, const local_file_options& options) {
  const char* const end = path.data() + path.size();
  int number = -1;
  const auto parsed = std::from_chars(path.data() + descriptor_prefix.size(), end, number);
  if (parsed.ec != std::errc() || parsed.ptr != end || number < 0) {
    return make_failure(errno_code(EBADF), path, "is not fd: and the number of a descriptor");
  }
  if (options.create) return make_failure(errno_code(EEXIST), path, "a descriptor names what exists already");
  file_descriptor copy(::fcntl(number, F_DUPFD_CLOEXEC, 3));
  if (!copy) return errno_failure(path);
  const int flags = ::fcntl(copy.get(), F_GETFL);
  if (flags < 0) return errno_failure(path);
  const int access = flags & O_ACCMODE;
  if ((flags & O_PATH) != 0 || access == O_WRONLY) {
    return make_failure(errno_code(EBADF), path, "the descriptor cannot read");
  }
  if (options.writable && access != O_RDWR) {
    return make_failure(errc::read_only, path, "the descriptor is open for reading only");
  }
  if (options.writable && (flags & O_APPEND) != 0) {
    return make_failure(errno_code(EINVAL), path, "the descriptor appends, whatever the offset (O_APPEND)");
  }
  if (wants_direct(options.cache) && ::fcntl(copy.get(), F_SETFL, flags | O_DIRECT) != 0) {
    return direct_refused(path, errno_code(errno));
  }
  return copy;
}

// Sealed memory files are as fixed as devices.
bool may_grow(int descriptor) {
  const int seals = ::fcntl(descriptor, F_GET_SEALS);
  return seals < 0 || (seals & F_SEAL_GROW) == 0;
}

outcome<void> measure(opened_file& file, const std::string& path, const local_file_options& options) {
  const int descriptor = file.descriptor.get();
  struct stat status{};
  if (::fstat(descriptor, &status) != 0) return errno_failure(path);
  if (std::optional<failure> wrong = kind_failure(path, status.st_mode)) return std::move(*wrong);
  // O_NONBLOCK was for opening; io_uring would take it as "never wait".
  const int flags = ::fcntl(descriptor, F_GETFL);
  if (flags < 0 || ::fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK) != 0) return errno_failure(path);
  file.syncs_writes = (flags & O_DSYNC) != 0;
  file.is_regular = S_ISREG(status.st_mode);
  if (file.is_regular) {
    file.size = static_cast<std::uint64_t>(status.st_size);
    file.identity = {status.st_dev, status.st_ino};
    file.can_grow = options.writable && may_grow(descriptor);
    struct statfs system{};
    file.in_memory = ::fstatfs(descriptor, &system) == 0 && system.f_type == TMPFS_MAGIC;
  } else {
    if (::ioctl(descriptor, BLKGETSIZE64, &file.size) != 0) return errno_failure(path);
    int sector_bytes = 0;
    if (::ioctl(descriptor, BLKSSZGET, &sector_bytes) != 0) return errno_failure(path);
    file.sector_bytes = static_cast<std::uint32_t>(sector_bytes);
    // The device, not the node that names it.
    file.identity = {status.st_rdev, ~std::uint64_t{0}};
  }
  if ((flags & O_DIRECT) == 0) return {};
  const result<direct_alignment> found = find_direct_alignment(descriptor, file.size);
  if (!found && found.error() == errno_code(EINVAL)) return direct_refused(path, found.error());
  if (!found) return make_failure(found.error(), path);
  file.alignment = *found;
  return {};
}

}  // namespace

outcome<opened_file> open_file(const std::string& path, const local_file_options& options) {
  opened_file file;
  file.is_passed = path.starts_with(descriptor_prefix);
  outcome<file_descriptor> opened = file.is_passed ? duplicate(path, options) : open_path(path, options);
  if (!opened) return std::move(opened).error();
  file.descriptor = std::move(*opened);
  outcome<void> done = measure(file, path, options);
  if (done) done = lock_image(file.descriptor.get(), path, options.writable, options.locking);
  if (done) return file;
  if (options.create) ::unlink(path.c_str());
  return std::move(done).error();
}

}  // namespace weir
