#include "cli/new_image.hpp"

#include "engine/block/backing_name.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

namespace weir::cli {
namespace {

namespace fs = std::filesystem;

/// Where the file really is: an existing symbolic link is written through, not replaced.
std::string real_place(const std::string& path) {
  std::error_code ignored;
  const fs::path resolved = fs::canonical(path, ignored);
  return ignored ? path : resolved.string();
}

std::string temporary_name(const std::string& path) {
  const fs::path place(path);
  const std::string name =
      "." + place.filename().string() + ".weir-" + std::to_string(::getpid()) + ".partial";
  return (place.parent_path() / name).string();
}

/// Nobody may be using what is about to be replaced.
task<outcome<void>> check_replaceable(engine_host& host, std::string path) {
  struct stat found{};
  if (::stat(path.c_str(), &found) != 0) {
    if (errno == ENOENT) co_return outcome<void>{};
    co_return make_failure(errno_code(errno), path);
  }
  if (!S_ISREG(found.st_mode)) {
    co_return make_failure(errno_code(EEXIST), path,
                           "exists and is not a regular file; weir convert -n writes to what exists");
  }
  local_file_options options;
  options.writable = true;
  auto opened = co_await open_local_file(host.files(), path, options);
  if (opened.has_error()) co_return opened.error();
  const result<void> closed = co_await (*opened)->close();
  if (closed.has_error()) co_return make_failure(closed.error(), path);
  co_return outcome<void>{};
}

/// An image that is replaced keeps who may read it.
outcome<void> keep_access(const std::string& old, const std::string& made) {
  struct stat found{};
  if (::stat(old.c_str(), &found) != 0) return {};
  if (::chmod(made.c_str(), found.st_mode & 07777) != 0) return make_failure(errno_code(errno), made);
  struct stat ours{};
  if (::stat(made.c_str(), &ours) != 0) return make_failure(errno_code(errno), made);
  if (ours.st_uid == found.st_uid && ours.st_gid == found.st_gid) return {};
  // Only root may give a file away; for others the new one is theirs, as after any rename.
  static_cast<void>(::chown(made.c_str(), found.st_uid, found.st_gid));
  return {};
}

/// A data file is made where it will stay, since the image names it: one that is there is emptied.
task<outcome<std::unique_ptr<storage>>> make_data_file(engine_host& host, std::string path, bool exists) {
  local_file_options how;
  how.create = !exists;
  how.writable = true;
  auto file = co_await open_local_file(host.files(), path, how);
  if (file.has_error()) co_return file.error();
  if (!(*file)->capabilities().can_grow) co_return file;
  const result<void> emptied = co_await (*file)->truncate(0);
  if (!emptied.has_error()) co_return file;
  const result<void> ignored = co_await (*file)->close();
  static_cast<void>(ignored);
  co_return make_failure(emptied.error(), path);
}

task<outcome<void>> fill(engine_host& host, const format_driver& format, std::string path,
                         image_create_options options) {
  local_file_options how;
  how.create = true;
  how.writable = true;
  auto file = co_await open_local_file(host.files(), path, how);
  if (file.has_error()) co_return file.error();
  outcome<void> created = co_await format.create(**file, std::move(options));
  const result<void> closed = co_await (*file)->close();
  if (created.has_error()) co_return created;
  if (closed.has_error()) co_return make_failure(closed.error(), path);
  co_return created;
}

}  // namespace

outcome<std::string> path_to_make(const std::string& image) {
  auto named = parse_image_name(image);
  if (named.has_error()) return named.error();
  const layer_source& source = named->source;
  const bool plain = source.type == "file" && source.fd_group.empty() && !source.path.starts_with("fd:") &&
                     !named->slice && named->format.empty();
  if (plain) return source.path;
  return make_failure(errc::unsupported_feature, image,
                      "only plain files can be made; weir convert -n writes to what exists");
}

new_image::new_image(std::string path, std::string temporary)
    : path_(std::move(path)), temporary_(std::move(temporary)) {}

new_image::~new_image() {
  if (!in_place_) remove_files();
}

void new_image::remove_files() const noexcept {
  ::unlink(temporary_.c_str());
  if (!new_data_file_.empty()) ::unlink(new_data_file_.c_str());
}

task<outcome<std::unique_ptr<storage>>> new_image::create_data_file(engine_host& host, std::string name) {
  const fs::path given(name);
  const std::string path = given.is_relative() ? (fs::path(path_).parent_path() / given).string() : name;
  if (real_place(path) == path_) {
    co_return make_failure(errc::unsupported_feature, path, "cannot be the image and its data file");
  }
  const bool exists = ::access(path.c_str(), F_OK) == 0;
  auto made = co_await make_data_file(host, path, exists);
  if (!made.has_error() && !exists) new_data_file_ = path;
  co_return made;
}

task<outcome<std::unique_ptr<new_image>>> new_image::create(engine_host& host, std::string path,
                                                            const format_driver& format,
                                                            image_create_options options) {
  if (format.create == nullptr) {
    co_return make_failure(errc::unsupported_feature, path,
                           "images of format '" + std::string(format.name) + "' cannot be created");
  }
  const std::string place = real_place(path);
  if (auto free = co_await check_replaceable(host, place); free.has_error()) co_return free.error();
  std::unique_ptr<new_image> made(new new_image(place, temporary_name(place)));
  // A process of the same number died here: nobody else has this name.
  ::unlink(made->temporary_.c_str());
  options.create_data_file = [&host, owner = made.get()](std::string name, bool) {
    return owner->create_data_file(host, std::move(name));
  };
  // Preallocation may take long, and a format is not asked to stop.
  host.set_undo([owner = made.get()] { owner->remove_files(); });
  const outcome<void> filled = co_await fill(host, format, made->temporary_, std::move(options));
  host.set_undo({});
  if (filled.has_error()) co_return made->as_user_sees(filled.error());
  if (auto kept = keep_access(place, made->temporary_); kept.has_error()) co_return kept.error();
  co_return made;
}

failure new_image::as_user_sees(failure error) const {
  if (const std::size_t at = error.what.find(temporary_); at != std::string::npos) {
    error.what.replace(at, temporary_.size(), path_);
  }
  return error;
}

outcome<void> new_image::put_in_place() {
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) return make_failure(errno_code(errno), path_);
  in_place_ = true;
  const std::string folder = fs::path(path_).parent_path().string();
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return {};
  const int synced = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  if (synced != 0 && error != EINVAL) return make_failure(errno_code(error), path_);
  return {};
}

}  // namespace weir::cli
