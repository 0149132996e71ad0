#include "cli/passphrase.hpp"

#include "cli/option_set.hpp"
#include "engine/storage/file_descriptor.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <string_view>

namespace weir::cli {
namespace {

constexpr std::size_t most_bytes = std::size_t{64} << 10;
constexpr std::string_view descriptor_prefix = "fd:";

outcome<file_descriptor> open_source(const std::string& path) {
  file_descriptor source;
  if (path.starts_with(descriptor_prefix)) {
    const auto number = parse_number(std::string_view(path).substr(descriptor_prefix.size()));
    if (!number || *number > 1U << 20)
      return usage_failure("passphrase-file: '" + path + "' is no descriptor");
    source = file_descriptor(::fcntl(static_cast<int>(*number), F_DUPFD_CLOEXEC, 3));
  } else {
    source = file_descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOCTTY));
  }
  if (!source) return make_failure(errno_code(errno), path);
  return source;
}

}  // namespace

outcome<std::string> read_passphrase(const std::string& path) {
  const outcome<file_descriptor> source = open_source(path);
  if (source.has_error()) return source.error();
  std::string text;
  std::array<char, 4096> part{};
  while (text.size() <= most_bytes) {
    const ssize_t got = ::read(source->get(), part.data(), part.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return make_failure(errno_code(errno), path);
    if (got == 0) break;
    text.append(part.data(), static_cast<std::size_t>(got));
  }
  if (text.size() > most_bytes) return make_failure(errno_code(EFBIG), path, "is too long for a passphrase");
  if (text.ends_with('\n')) text.pop_back();
  if (text.empty()) return make_failure(errno_code(EINVAL), path, "holds no passphrase");
  return text;
}

}  // namespace weir::cli
