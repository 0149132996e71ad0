#include "cli/copy_target.hpp"

#include "cli/image_options.hpp"
#include "cli/new_image.hpp"
#include "engine/block/backing_name.hpp"

#include <unistd.h>

#include <cerrno>
#include <utility>

namespace weir::cli {
namespace {

/// Makes the target, empty, under its temporary name.
task<outcome<std::unique_ptr<new_image>>> make_target(engine_host& host, const disk& source,
                                                      const copy_target_request& request) {
  const auto path = path_to_make(request.target);
  if (path.has_error()) co_return path.error();
  if (::access(path->c_str(), F_OK) == 0) {
    co_return make_failure(errno_code(EEXIST), *path, "exists; --reuse-external copies into what exists");
  }
  const auto format = find_format(request.format);
  if (format.has_error()) co_return format.error();
  image_create_options options;
  options.virtual_size = source.size();
  const std::size_t shared = request.layers;
  if (shared < source.chain().depth()) {
    if (!(*format)->can_have_backing) {
      co_return make_failure(
          errc::unsupported_feature, *path,
          "format '" + request.format + "' has no backing files: a shallow copy needs one");
    }
    const layer& below = *source.chain().at(shared);
    options.backing =
        backing_reference{describe(below.model.source), std::string(below.image->format()), false};
  }
  co_return co_await new_image::create(host, *path, **format, std::move(options));
}

outcome<void> check_size(const disk& source, const disk& target) {
  if (source.size() == target.size()) return {};
  return make_failure(errc::not_supported, target.name(),
                      "has " + std::to_string(target.size()) + " bytes, disk '" + source.name() + "' has " +
                          std::to_string(source.size()));
}

}  // namespace

task<outcome<copy_target>> open_copy_target(engine_host& host, const disk& source,
                                            copy_target_request request, opener_settings storage) {
  copy_target opened;
  const auto named = parse_image_name(request.target);
  if (named.has_error()) co_return named.error();
  const bool remote = named->source.type == "network";
  const bool makes = !request.existing && !remote;
  if (request.format.empty() && remote) request.format = "raw";
  if (request.format.empty() && makes) request.format = source.chain().active().image->format();
  if (makes) {
    auto made = co_await make_target(host, source, request);
    if (made.has_error()) co_return made.error();
    if (request.unfinished) {
      opened.unfinished = std::move(*made);
      request.target = opened.unfinished->temporary_path();
    } else if (auto placed = (*made)->put_in_place(); placed.has_error()) {
      co_return placed.error();
    }
  }
  image_settings settings;
  settings.format = request.format;
  settings.writable = true;
  settings.allow_remote_backing = true;
  settings.storage = std::move(storage);
  auto target = co_await open_disk(host, request.target, settings);
  const outcome<void> fits =
      target.has_error() ? outcome<void>(target.error()) : check_size(source, **target);
  if (fits.has_error()) {
    if (target.has_value()) static_cast<void>(co_await close_disk(**target));
    if (makes && !request.unfinished) ::unlink(named->source.path.c_str());
    co_return fits.error();
  }
  opened.is_zero = makes && (*target)->chain().depth() == 1;
  opened.target = std::move(*target);
  co_return opened;
}

}  // namespace weir::cli
