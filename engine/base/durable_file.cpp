#include "engine/base/durable_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace weir {
namespace {

namespace fs = std::filesystem;

class open_file {
 public:
  open_file(const std::string& path, int flags, mode_t mode)
      : descriptor_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~open_file() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }
  open_file(const open_file&) = delete;
  open_file& operator=(const open_file&) = delete;
  int descriptor() const noexcept { return descriptor_; }

 private:
  int descriptor_;
};

result<void> write_durably(const std::string& path, std::string_view text, mode_t mode) {
  const open_file file(path, O_WRONLY | O_CREAT | O_TRUNC, mode);
  if (file.descriptor() < 0) return errno_code(errno);
  while (!text.empty()) {
    const ssize_t written = ::write(file.descriptor(), text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno_code(errno);
    text.remove_prefix(static_cast<std::size_t>(written));
  }
  if (::fchmod(file.descriptor(), mode) != 0 || ::fsync(file.descriptor()) != 0) return errno_code(errno);
  return {};
}

result<void> sync_folder_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  const open_file folder(parent.empty() ? "." : parent.string(), O_RDONLY | O_DIRECTORY, 0);
  if (folder.descriptor() < 0 || ::fsync(folder.descriptor()) != 0) return errno_code(errno);
  return {};
}

}  // namespace

result<void> replace_file(const std::string& path, std::string_view text) {
  struct stat old{};
  const bool exists = ::stat(path.c_str(), &old) == 0;
  std::error_code error;
  const std::string target = exists ? fs::canonical(path, error).string() : path;
  if (error) return errno_code(error.value());
  const std::string fresh = target + ".new";
  const result<void> written = write_durably(fresh, text, exists ? old.st_mode & 07777 : 0600);
  if (!written) {
    ::unlink(fresh.c_str());
    return written;
  }
  if (::rename(fresh.c_str(), target.c_str()) != 0) return errno_code(errno);
  return sync_folder_of(target);
}

result<void> remove_file(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return errno_code(errno);
  return sync_folder_of(path);
}

}  // namespace weir
