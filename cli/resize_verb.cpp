#include "cli/image_options.hpp"
#include "cli/verbs.hpp"
#include "engine/base/size_text.hpp"
#include "engine/copy/resize_disk.hpp"

#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace weir::cli {
namespace {

constexpr std::uint64_t sector_bytes = 512;

struct resize_request {
  std::string path;
  image_settings settings;
  char sign = 0;  ///< '+' or '-': SIZE is a difference
  std::uint64_t size = 0;
  bool shrink = false;
  preallocation mode = preallocation::off;
};

std::optional<preallocation> parse_preallocation(std::string_view word) {
  if (word == "off") return preallocation::off;
  if (word == "metadata") return preallocation::metadata;
  if (word == "falloc") return preallocation::falloc;
  if (word == "full") return preallocation::full;
  return std::nullopt;
}

outcome<resize_request> read_request(const given_options& given) {
  resize_request request;
  request.path = *given.value("IMAGE");
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.settings = *settings;
  request.settings.writable = true;
  std::string text = *given.value("SIZE");
  if (text.starts_with('+') || text.starts_with('-')) {
    request.sign = text.front();
    text.erase(0, 1);
  }
  const auto size = parse_size(text);
  if (!size) return usage_failure("SIZE: '" + text + "' is not a size (digits, then K, M, G or T)");
  request.size = *size;
  request.shrink = given.has("shrink");
  const auto mode = parse_preallocation(given.value("preallocation").value_or("off"));
  if (!mode) return usage_failure("preallocation: wants off, metadata, falloc or full");
  request.mode = *mode;
  return request;
}

outcome<std::uint64_t> new_size(const resize_request& request, std::uint64_t old_size) {
  std::optional<std::uint64_t> size = request.size;
  if (request.sign == '+') size = checked_add(old_size, request.size);
  if (request.sign == '-') {
    if (request.size > old_size) {
      return make_failure(errc::out_of_range, request.path,
                          "has " + std::to_string(old_size) + " bytes, fewer than are to be taken away");
    }
    size = old_size - request.size;
  }
  if (size) size = checked_align_up(*size, sector_bytes);
  if (!size || *size > (std::uint64_t{1} << 63) - sector_bytes) {
    return make_failure(errno_code(EFBIG), request.path, "no disk can be that large");
  }
  return *size;
}

outcome<void> check(const resize_request& request, const disk& opened, std::uint64_t size) {
  if (size < opened.size() && !request.shrink) {
    return make_failure(errc::unsupported_feature, request.path,
                        "shrinking deletes what lies behind the new end; --shrink says that this is meant");
  }
  if (size < opened.size() && request.mode != preallocation::off) {
    return make_failure(errc::unsupported_feature, request.path, "nothing is preallocated when shrinking");
  }
  const bool is_raw = opened.chain().active().image->format() == "raw";
  if (is_raw && request.mode == preallocation::metadata) {
    return make_failure(errc::unsupported_feature, request.path,
                        "a raw image has no metadata; --preallocation wants off, falloc or full");
  }
  return {};
}

task<outcome<void>> change(disk& opened, const resize_request& request) {
  const outcome<std::uint64_t> size = new_size(request, opened.size());
  if (size.has_error()) co_return size.error();
  const outcome<void> allowed = check(request, opened, *size);
  if (allowed.has_error()) co_return allowed;
  co_return co_await resize_disk(opened, *size, request.mode);
}

task<outcome<int>> resize(engine_host& host, resize_request request) {
  auto opened = co_await open_disk(host, request.path, request.settings);
  if (opened.has_error()) co_return opened.error();
  const outcome<void> changed = co_await change(**opened, request);
  const outcome<void> closed = co_await close_disk(**opened);
  if (changed.has_error()) co_return changed.error();
  if (closed.has_error()) co_return closed.error();
  std::puts("Image resized.");
  co_return exit_done;
}

void declare(option_set& options) {
  declare_image_options(options);
  options.flag("shrink", "Allow the image to become smaller; what lies behind the new end is deleted.")
      .value("preallocation", "MODE",
             "Space for what is added: off (default), metadata, falloc or full; raw has no metadata.")
      .argument("IMAGE", "The image; nobody else may use it.")
      .argument("SIZE", "New size, or with + or - in front what to add or take away.");
}

outcome<int> run(const given_options& given) {
  auto request = read_request(given);
  if (request.has_error()) return request.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(resize(**host, std::move(*request)));
}

}  // namespace

verb resize_verb() {
  return {
      .name = "resize",
      .synopsis = "[-f FMT] [--shrink] [--preallocation MODE] IMAGE [+|-]SIZE",
      .summary = "change the size of an image",
      .description =
          "Changes the size that a guest sees. What is added reads as zero, even where a backing image is "
          "longer.\n\nraw and qcow2 images grow and shrink, QED images grow. A qcow2 image with internal "
          "snapshots does not shrink. A crash leaves the old size or the new one.",
      .declare = declare,
      .run = run};
}

}  // namespace weir::cli
