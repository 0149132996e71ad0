// weir-qcow-reader: reads one image through libqcow for weir, in a process that may die.
//
// libqcow reads past its buffers and loops without end on some images, so it runs here only: bounded address space,
// a few seconds of processor per request, one open file, nothing it could write to. No parent image is ever given to
// it, and no read crosses a cluster (both return wrong data without an error); weir asks only for what it knows to be
// allocated. An overlay whose parent is missing libqcow does not read at all, so it is shown every image without the
// name of its backing image: its calls of read(2) come here first. What this process answers is bytes of the image,
// nothing more.
#include "formats/qcow1/reader_protocol.hpp"

#include <libqcow.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace weir::qcow1 {
namespace {

constexpr rlim_t seconds_per_request = 5;
constexpr rlim_t most_descriptors = 16;

/// Where both versions of the format keep offset and length of the backing name.
constexpr off_t backing_fields_begin = 8;
constexpr off_t backing_fields_end = 20;

ssize_t read_directly(int descriptor, void* into, std::size_t length) {
  return ::syscall(SYS_read, descriptor, into, length);
}

bool read_all(void* into, std::size_t length) {
  auto* at = static_cast<char*>(into);
  while (length > 0) {
    const ssize_t got = read_directly(reader_socket, at, length);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return false;
    at += got;
    length -= static_cast<std::size_t>(got);
  }
  return true;
}

bool write_all(const void* from, std::size_t length) {
  const auto* at = static_cast<const char*>(from);
  while (length > 0) {
    const ssize_t put = ::write(reader_socket, at, length);
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return false;
    at += put;
    length -= static_cast<std::size_t>(put);
  }
  return true;
}

bool answer(reader_status status, const void* data, std::size_t length) {
  const reader_answer head{status, static_cast<std::uint32_t>(length)};
  return write_all(&head, sizeof head) && write_all(data, length);
}

bool refuse(std::string_view why) {
  return answer(reader_status::failed, why.data(), std::min<std::size_t>(why.size(), longest_text));
}

void set_limit(int what, rlim_t soft, rlim_t hard) {
  const rlimit limit{soft, hard};
  ::setrlimit(static_cast<__rlimit_resource>(what), &limit);
}

/// Before the image is looked at.
void confine() {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  ::close_range(reader_image + 1, ~0U, 0);
#if !defined(__SANITIZE_ADDRESS__) && !__has_feature(address_sanitizer)
  constexpr rlim_t most_bytes = rlim_t{256} << 20;
  set_limit(RLIMIT_AS, most_bytes, most_bytes);
#endif
  set_limit(RLIMIT_NOFILE, most_descriptors, most_descriptors);
  set_limit(RLIMIT_FSIZE, 0, 0);
  set_limit(RLIMIT_CORE, 0, 0);
  // A default action: the parent may have started us with others.
  std::signal(SIGXCPU, SIG_DFL);
  std::signal(SIGPIPE, SIG_DFL);
}

/// The next request has its own few seconds.
void grant_time() {
  rusage used{};
  ::getrusage(RUSAGE_SELF, &used);
  const auto spent = static_cast<rlim_t>(used.ru_utime.tv_sec + used.ru_stime.tv_sec);
  set_limit(RLIMIT_CPU, spent + seconds_per_request + 1, RLIM_INFINITY);
}

/// The innermost cause, on one line.
std::string words_of(libqcow_error_t* error) {
  std::vector<char> text(longest_text);
  if (libqcow_error_sprint(error, text.data(), text.size()) < 0) return "libqcow failed";
  std::string line(text.data());
  std::ranges::replace_if(line, [](unsigned char c) { return c < 0x20 || c >= 0x7f; }, ' ');
  return line;
}

class library_image {
 public:
  library_image() = default;
  library_image(const library_image&) = delete;
  library_image& operator=(const library_image&) = delete;
  ~library_image() {
    if (file_ != nullptr) libqcow_file_free(&file_, nullptr);
  }

  /// Empty if it is open.
  std::string open(const reader_setup& setup) {
    const std::string path = "/proc/self/fd/" + std::to_string(reader_image);
    libqcow_error_t* error = nullptr;
    bool sound = libqcow_file_initialize(&file_, &error) == 1;
    if (sound && setup.has_key != 0) {
      sound = libqcow_file_set_keys(file_, setup.key.data(), setup.key.size(), &error) == 1;
    }
    sound = sound && libqcow_file_open(file_, path.c_str(), LIBQCOW_OPEN_READ, &error) == 1;
    size64_t size = 0;
    sound = sound && libqcow_file_get_media_size(file_, &size, &error) == 1;
    if (!sound) return take_words(error);
    if (size < setup.virtual_size) return "libqcow sees another size";
    cluster_bytes_ = setup.cluster_bytes;
    return {};
  }

  /// Empty if all of `into` was read.
  std::string read(std::uint64_t offset, std::vector<std::uint8_t>& into) {
    for (std::size_t done = 0; done < into.size();) {
      const std::uint64_t at = offset + done;
      const auto in_cluster = static_cast<std::size_t>(cluster_bytes_ - at % cluster_bytes_);
      const std::size_t length = std::min(in_cluster, into.size() - done);
      libqcow_error_t* error = nullptr;
      const ssize_t got = libqcow_file_read_buffer_at_offset(file_, into.data() + done, length,
                                                             static_cast<off64_t>(at), &error);
      if (got != static_cast<ssize_t>(length)) return take_words(error);
      done += length;
    }
    return {};
  }

 private:
  static std::string take_words(libqcow_error_t* error) {
    if (error == nullptr) return "libqcow read less than asked for";
    const std::string words = words_of(error);
    libqcow_error_free(&error);
    return words.empty() ? "libqcow failed" : words;
  }

  libqcow_file_t* file_ = nullptr;
  std::uint64_t cluster_bytes_ = 1;
};

bool is_sane(const reader_setup& setup) {
  return setup.cluster_bytes >= 512 && setup.virtual_size <= static_cast<std::uint64_t>(INT64_MAX);
}

int serve() {
  reader_setup setup;
  if (!read_all(&setup, sizeof setup) || !is_sane(setup)) return 1;
  library_image image;
  grant_time();
  const std::string refusal = image.open(setup);
  if (!refusal.empty()) {
    refuse(refusal);
    return 1;
  }
  if (!answer(reader_status::done, nullptr, 0)) return 1;
  std::vector<std::uint8_t> buffer;
  reader_request asked;
  while (read_all(&asked, sizeof asked)) {
    if (asked.length > longest_request || asked.offset > setup.virtual_size) return 1;
    grant_time();
    buffer.assign(static_cast<std::size_t>(asked.length), 0);
    const std::string failed = image.read(asked.offset, buffer);
    const bool said =
        failed.empty() ? answer(reader_status::done, buffer.data(), buffer.size()) : refuse(failed);
    if (!said) return 1;
  }
  return 0;
}

}  // namespace
}  // namespace weir::qcow1

/// Takes the place of the C library's for libqcow, too.
extern "C" ssize_t read(int descriptor, void* into, std::size_t length) {
  using namespace weir::qcow1;
  const off_t begin = ::lseek(descriptor, 0, SEEK_CUR);
  const ssize_t got = read_directly(descriptor, into, length);
  if (got <= 0 || begin < 0) return got;
  const off_t first = std::max(begin, backing_fields_begin);
  const off_t last = std::min<off_t>(begin + got, backing_fields_end);
  if (first < last) {
    std::memset(static_cast<char*>(into) + (first - begin), 0, static_cast<std::size_t>(last - first));
  }
  return got;
}

int main() {
  weir::qcow1::confine();
  return weir::qcow1::serve();
}
