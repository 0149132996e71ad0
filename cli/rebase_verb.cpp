#include "cli/image_options.hpp"
#include "cli/progress.hpp"
#include "cli/verbs.hpp"
#include "engine/block/backing_name.hpp"
#include "engine/copy/rebase_copy.hpp"

#include <optional>
#include <utility>

namespace weir::cli {
namespace {

struct rebase_request {
  std::string path;
  image_settings settings;
  std::optional<backing_reference> backing;  ///< none: the image is to stand alone
  bool unsafe = false;
  progress_style style = progress_style::none;
};

outcome<rebase_request> read_request(const given_options& given) {
  rebase_request request;
  request.path = *given.value("IMAGE");
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.settings = *settings;
  request.settings.writable = true;
  const auto name = given.value("backing");
  const auto format = given.value("backing-format");
  if (!name) return usage_failure("-b is missing: the new backing image, or \"\" for none");
  if (name->empty() && format) return usage_failure("-F is given without a backing image");
  if (!name->empty() && !format) {
    return make_failure(errc::unsupported_feature, request.path,
                        "backing file without backing format; add -F with the format of '" + *name + "'");
  }
  if (format) {
    if (auto known = find_format(*format); known.has_error()) return known.error();
    request.backing = backing_reference{.name = *name, .format = *format};
  }
  request.unsafe = given.has("unsafe");
  // Unsafe: the old chain need not exist.
  request.settings.alone = request.unsafe;
  const auto style = parse_progress(given.value("progress"));
  if (!style) return usage_failure("progress: only =json or nothing may follow");
  request.style = *style;
  return request;
}

/// The new backing chain, found as the overlay's header will name it.
task<outcome<std::unique_ptr<disk>>> open_backing(engine_host& host, const disk& overlay,
                                                  const rebase_request& request) {
  auto parsed = parse_backing_string(request.backing->name, overlay.chain().active().model.source);
  if (parsed.has_error()) co_return parsed.error();
  layer_model top;
  top.source = parsed->source;
  top.slice = parsed->slice;
  top.format = request.backing->format;
  image_settings settings = request.settings;
  settings.writable = false;
  auto layers = co_await open_layers(host, std::move(top), settings);
  if (layers.has_error()) co_return layers.error();
  co_return make_disk(host, std::move(*layers), request.backing->name, true);
}

/// Afterwards the overlay reads the same above the new backing image.
task<outcome<void>> make_independent(engine_host& host, disk& overlay, const rebase_request& request) {
  progress_meter meter(request.style, "rebase");
  const auto progress = [&](std::uint64_t done, std::uint64_t total) {
    meter.update(done, total);
    return !host.interrupted();
  };
  outcome<void> copied;
  if (!request.backing) {
    copied = co_await copy_everything(overlay, progress);
  } else {
    auto backing = co_await open_backing(host, overlay, request);
    if (backing.has_error()) co_return backing.error();
    copied = co_await copy_differences(overlay, **backing, progress);
    const outcome<void> closed = co_await close_disk(**backing);
    if (copied.has_value()) copied = closed;
  }
  meter.finish();
  if (host.interrupted()) co_return interrupted_failure(request.path);
  co_return copied;
}

task<outcome<void>> change(engine_host& host, disk& overlay, const rebase_request& request) {
  image& active = *overlay.chain_for_change().active().image;
  if (!request.unsafe) {
    const outcome<void> ready = co_await make_independent(host, overlay, request);
    if (ready.has_error()) co_return ready;
  }
  const result<void> recorded = co_await active.set_backing(request.backing);
  const error_code unsupported = errc::not_supported;
  if (!recorded && recorded.error() == unsupported) {
    co_return make_failure(recorded.error(), request.path,
                           "format '" + std::string(active.format()) + "' has no backing files");
  }
  if (!recorded) co_return make_failure(recorded.error(), request.path);
  co_return outcome<void>{};
}

task<outcome<int>> rebase(engine_host& host, rebase_request request) {
  auto overlay = co_await open_disk(host, request.path, request.settings);
  if (overlay.has_error()) co_return overlay.error();
  const outcome<void> changed = co_await change(host, **overlay, request);
  const outcome<void> closed = co_await close_disk(**overlay);
  if (changed.has_error()) co_return changed.error();
  if (closed.has_error()) co_return closed.error();
  co_return exit_done;
}

void declare(option_set& options) {
  declare_image_options(options);
  options.value("backing,b", "BACKING", "The new backing image, as it is to be recorded; \"\" for none.")
      .value("backing-format,F", "FMT", "Format of the new backing image; needed with it.")
      .flag("unsafe,u", "Only record the name; neither backing chain is read. The content may change.")
      .progress()
      .argument("IMAGE", "The overlay; nobody else may use it.");
}

outcome<int> run(const given_options& given) {
  auto request = read_request(given);
  if (request.has_error()) return request.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(rebase(**host, std::move(*request)));
}

}  // namespace

verb rebase_verb() {
  return {
      .name = "rebase",
      .synopsis = "[-f FMT] [-u] -b BACKING [-F FMT] [-p] IMAGE",
      .summary = "give an overlay another backing image",
      .description =
          "Changes the backing image of an overlay without changing what a guest reads: where the old "
          "backing chain and the new one differ, the old content is copied into the overlay first. With -b "
          "\"\" everything is, and the overlay stands alone.\n\nThe new name is recorded last: interrupted, "
          "the overlay still has its old backing image and reads as before; started again, the work goes on "
          "where it was.",
      .declare = declare,
      .run = run};
}

}  // namespace weir::cli
