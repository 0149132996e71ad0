#include "cli/image_options.hpp"
#include "cli/progress.hpp"
#include "cli/verbs.hpp"
#include "engine/copy/disk_copy.hpp"
#include "engine/copy/resize_disk.hpp"
#include "formats/registry.hpp"

#include <cstdio>
#include <filesystem>
#include <optional>
#include <system_error>
#include <utility>

namespace weir::cli {
namespace {

struct commit_request {
  std::string path;
  image_settings settings;
  std::optional<std::string> base;
  bool keep_overlay = false;  ///< -d
  progress_style style = progress_style::none;
};

/// The layers above the base as one disk, and the base with what lies below it as another.
struct split_chain {
  std::unique_ptr<disk> above;
  std::unique_ptr<disk> base;
};

outcome<commit_request> read_request(const given_options& given) {
  commit_request request;
  request.path = *given.value("IMAGE");
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.settings = *settings;
  request.base = given.value("base");
  // With a base further down, the overlays between would read wrongly over an emptied top.
  request.keep_overlay = given.has("keep") || request.base.has_value();
  const auto style = parse_progress(given.value("progress"));
  if (!style) return usage_failure("progress: only =json or nothing may follow");
  request.style = *style;
  return request;
}

/// The depth of the layer that the user means: by the name in the chain, or by any path to its file.
std::optional<std::size_t> find_base(const chain& layers, const std::string& spec) {
  if (const auto named = layers.find_layer("", spec)) return named;
  std::error_code ignored;
  for (std::size_t depth = 0; depth < layers.depth(); ++depth) {
    if (std::filesystem::equivalent(layers.at(depth)->model.source.path, spec, ignored)) return depth;
  }
  return std::nullopt;
}

/// Models of the whole chain, and how many of them lie above the base.
struct chain_plan {
  std::vector<layer_model> layers;
  std::size_t above = 1;
};

task<outcome<chain_plan>> plan(engine_host& host, const commit_request& request) {
  auto whole = co_await open_disk(host, request.path, request.settings);
  if (whole.has_error()) co_return whole.error();
  chain_plan made;
  for (const auto& each : (*whole)->chain().layers()) made.layers.push_back(each->model);
  std::optional<std::size_t> base = 1;
  if (request.base) base = find_base((*whole)->chain(), *request.base);
  const outcome<void> closed = co_await close_disk(**whole);
  if (closed.has_error()) co_return closed.error();
  if (made.layers.size() < 2) {
    co_return make_failure(errc::unsupported_feature, request.path, "has no backing image to commit to");
  }
  if (!base || *base == 0) {
    co_return make_failure(errc::out_of_range, request.path,
                           "'" + request.base.value_or("") + "' is not one of its backing images");
  }
  made.above = *base;
  co_return made;
}

task<outcome<std::unique_ptr<disk>>> open_part(engine_host& host, disk_model part, bool writable,
                                               const image_settings& settings) {
  open_chain_options options;
  options.read_only = !writable;
  options.allow_remote_backing = settings.allow_remote_backing;
  part.terminated = true;
  std::string name = describe(part.layers.front().source);
  const storage_opener opener = host.opener(settings.storage);
  auto layers = co_await open_chain(part, formats(), opener, options);
  if (layers.has_error()) co_return layers.error();
  co_return make_disk(host, std::move(*layers), std::move(name), !writable);
}

task<outcome<split_chain>> open_split(engine_host& host, const chain_plan& planned,
                                      const commit_request& request) {
  const auto border = planned.layers.begin() + static_cast<std::ptrdiff_t>(planned.above);
  disk_model above;
  above.layers.assign(planned.layers.begin(), border);
  disk_model base;
  base.layers.assign(border, planned.layers.end());
  split_chain opened;
  auto upper = co_await open_part(host, std::move(above), !request.keep_overlay, request.settings);
  if (upper.has_error()) co_return upper.error();
  opened.above = std::move(*upper);
  auto lower = co_await open_part(host, std::move(base), true, request.settings);
  if (lower.has_error()) {
    const outcome<void> ignored = co_await close_disk(*opened.above);
    static_cast<void>(ignored);
    co_return lower.error();
  }
  opened.base = std::move(*lower);
  co_return opened;
}

task<outcome<void>> merge(engine_host& host, split_chain& chain, const commit_request& request) {
  if (chain.above->size() > chain.base->size()) {
    const outcome<void> grown = co_await resize_disk(*chain.base, chain.above->size(), preallocation::off);
    if (grown.has_error()) co_return grown;
  }
  progress_meter meter(request.style, "commit");
  disk_copy_options options;
  options.only_allocated = true;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    meter.update(done, total);
    return !host.interrupted();
  };
  const auto copied = co_await copy_disk(*chain.above, *chain.base, std::move(options));
  meter.finish();
  if (host.interrupted()) co_return interrupted_failure(request.path);
  if (copied.has_error()) co_return copied.error();
  const result<void> flushed = co_await chain.base->flush();
  if (flushed.has_error()) co_return make_failure(flushed.error(), chain.base->name());
  // Only now that the base has all of it, durably.
  if (request.keep_overlay) co_return outcome<void>{};
  co_return co_await chain.above->chain_for_change().active().image->make_empty();
}

task<outcome<int>> commit(engine_host& host, commit_request request) {
  const outcome<chain_plan> planned = co_await plan(host, request);
  if (planned.has_error()) co_return planned.error();
  auto chain = co_await open_split(host, *planned, request);
  if (chain.has_error()) co_return chain.error();
  const outcome<void> merged = co_await merge(host, *chain, request);
  const outcome<void> closed_base = co_await close_disk(*chain->base);
  const outcome<void> closed_above = co_await close_disk(*chain->above);
  for (const outcome<void>& each : {merged, closed_base, closed_above}) {
    if (each.has_error()) co_return each.error();
  }
  std::puts("Image committed.");
  co_return exit_done;
}

void declare(option_set& options) {
  declare_image_options(options);
  options
      .value("base,b", "BASE", "Commit down to this image of the chain instead of the nearest; implies -d.")
      .flag("keep,d", "Leave IMAGE as it is instead of emptying it.")
      .progress()
      .argument("IMAGE", "The overlay; nobody else may use its chain.");
}

outcome<int> run(const given_options& given) {
  auto request = read_request(given);
  if (request.has_error()) return request.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(commit(**host, std::move(*request)));
}

}  // namespace

verb commit_verb() {
  return {
      .name = "commit",
      .synopsis = "[-f FMT] [-b BASE] [-d] [-p] IMAGE",
      .summary = "write an overlay's content into its backing image",
      .description =
          "Writes what IMAGE holds into its backing image, which grows where it is smaller, and then empties "
          "IMAGE.\n\nInterrupted, IMAGE still holds everything and reads as before; started again, the work "
          "is done anew.",
      .declare = declare,
      .run = run};
}

}  // namespace weir::cli
