#include "engine/block/local_opener.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <utility>

namespace weir {
namespace {

bool is_number(const std::string& text) {
  return !text.empty() && text.size() < 10 &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

/// What open_local_file is to be given: a path, or "fd:N" for a descriptor group.
outcome<std::string> name_to_open(const layer_source& source) {
  if (source.type != "file" && source.type != "block") {
    const std::string kind =
        source.type == "network" ? "protocol " + source.protocol : "storage of type " + source.type;
    return make_failure(errc::unsupported_feature, describe(source), kind + " is not supported");
  }
  if (source.fd_group.empty()) return source.path;
  if (!is_number(source.fd_group)) {
    return make_failure(errc::unsupported_feature, describe(source),
                        "fdgroup '" + source.fd_group + "' is not a descriptor's number");
  }
  return "fd:" + source.fd_group;
}

bool is_block_device(const storage& opened) {
  const std::optional<int> descriptor = opened.descriptor();
  struct stat facts{};
  if (descriptor) return fstat(*descriptor, &facts) == 0 && S_ISBLK(facts.st_mode);
  return stat(opened.location().c_str(), &facts) == 0 && S_ISBLK(facts.st_mode);
}

task<outcome<std::unique_ptr<storage>>> open_local(file_io& io, layer_source& source,
                                                   local_file_options options) {
  const outcome<std::string> name = name_to_open(source);
  if (!name) co_return name.error();
  auto opened = co_await open_local_file(io, *name, options);
  if (opened && source.type == "file" && is_block_device(**opened)) source.type = "block";
  co_return opened;
}

}  // namespace

storage_opener make_local_opener(file_io& io, cache_mode cache, image_locking locking) {
  return [&io, cache, locking](layer_source& source, bool writable) {
    const local_file_options options{
        .writable = writable, .create = false, .cache = cache, .locking = locking};
    return open_local(io, source, options);
  };
}

}  // namespace weir
