#include "cli/image_options.hpp"
#include "cli/verbs.hpp"
#include "engine/block/bitmap_store.hpp"

#include <boost/json.hpp>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

constexpr std::size_t runs_at_once = 1024;

struct measure_request {
  std::optional<std::string> path;
  image_settings settings;
  const format_driver* format = nullptr;
  image_create_options target;
  bool as_json = false;
};

struct measured {
  std::uint64_t required_bytes = 0;
  std::uint64_t fully_allocated_bytes = 0;
  std::optional<std::uint64_t> bitmap_bytes = std::nullopt;  ///< where source and target keep bitmaps
};

outcome<measure_request> read_request(const given_options& given) {
  measure_request request;
  request.path = given.value("IMAGE");
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.settings = *settings;
  auto format = find_format(given.value("output-format").value_or("raw"));
  if (format.has_error()) return format.error();
  request.format = *format;
  auto options = parse_format_options(given.values("options"));
  if (options.has_error()) return options.error();
  request.target.options = std::move(*options);
  // qemu-img spells the backing image of the target as an option.
  if (const auto named = request.target.options.find("backing_file"); named != request.target.options.end()) {
    request.target.backing = backing_reference{.name = named->second, .format = ""};
    request.target.options.erase(named);
    request.target.options.erase("backing_fmt");
  }
  auto size = given.size("size");
  if (size.has_error()) return size.error();
  if (size->has_value() == request.path.has_value()) {
    return usage_failure("wants either --size SIZE or an IMAGE");
  }
  request.target.virtual_size = size->value_or(0);
  request.as_json = given.has("json");
  return request;
}

outcome<size_estimate> estimate(const measure_request& request) {
  const std::string name(request.format->name);
  if (request.format->measure == nullptr) {
    return make_failure(errc::unsupported_feature, name, "the size of such images is not known beforehand");
  }
  auto made = request.format->measure(request.target);
  if (made.has_error()) return make_failure(made.error().code, name, made.error().what);
  return made;
}

/// Bytes of the whole grains that what a guest sees of `source` needs, zeros left out.
task<outcome<std::uint64_t>> count_content(disk& source, std::uint64_t grain) {
  std::uint64_t grains = 0;
  std::uint64_t counted_to = 0;
  byte_range rest{0, source.size()};
  while (!rest.empty()) {
    const result<std::vector<status_run>> runs = co_await source.status(rest, runs_at_once);
    if (!runs) co_return make_failure(runs.error(), source.name());
    for (const status_run& run : *runs) {
      const byte_range here{rest.offset, run.length};
      rest = range_between(here.end(), rest.end());
      if (run.zero || run.depth == 0) continue;
      const std::uint64_t first = std::max(here.offset / grain, counted_to);
      const std::uint64_t end = (here.end() - 1) / grain + 1;
      grains += end - first;
      counted_to = end;
    }
  }
  co_return grains* grain;
}

task<outcome<measured>> measure_image(disk& source, measure_request& request) {
  request.target.virtual_size = source.size();
  const outcome<size_estimate> whole = estimate(request);
  if (whole.has_error()) co_return whole.error();
  measured made;
  made.fully_allocated_bytes = whole->metadata_bytes + whole->content_bytes;
  const bitmap_store* kept = source.chain().active().image->bitmaps();
  if (kept != nullptr && request.format->measure_bitmaps != nullptr) {
    made.bitmap_bytes = request.format->measure_bitmaps(request.target, kept->bitmaps());
  }
  made.required_bytes = made.fully_allocated_bytes;
  if (!whole->is_sparse) co_return made;
  const outcome<std::uint64_t> content = co_await count_content(source, whole->grain);
  if (content.has_error()) co_return content.error();
  made.required_bytes = whole->metadata_bytes + *content;
  co_return made;
}

void print(const measured& sizes, bool as_json) {
  if (as_json) {
    json::object shown{{"required", sizes.required_bytes}, {"fully-allocated", sizes.fully_allocated_bytes}};
    if (sizes.bitmap_bytes) shown["bitmaps"] = *sizes.bitmap_bytes;
    std::puts(json::serialize(shown).c_str());
    return;
  }
  std::printf("required size: %llu\nfully allocated size: %llu\n",
              static_cast<unsigned long long>(sizes.required_bytes),
              static_cast<unsigned long long>(sizes.fully_allocated_bytes));
  if (sizes.bitmap_bytes) {
    std::printf("bitmaps size: %llu\n", static_cast<unsigned long long>(*sizes.bitmap_bytes));
  }
}

task<outcome<int>> measure(engine_host& host, measure_request request) {
  if (!request.path) {
    const outcome<size_estimate> whole = estimate(request);
    if (whole.has_error()) co_return whole.error();
    const std::uint64_t content = whole->is_sparse ? 0 : whole->content_bytes;
    print({whole->metadata_bytes + content, whole->metadata_bytes + whole->content_bytes}, request.as_json);
    co_return exit_done;
  }
  auto source = co_await open_disk(host, *request.path, request.settings);
  if (source.has_error()) co_return source.error();
  const outcome<measured> sizes = co_await measure_image(**source, request);
  const outcome<void> closed = co_await close_disk(**source);
  if (sizes.has_error()) co_return sizes.error();
  if (closed.has_error()) co_return closed.error();
  print(*sizes, request.as_json);
  co_return exit_done;
}

void declare(option_set& options) {
  declare_image_options(options);
  options.value("output-format,O", "FMT", "Format of the image to be made: raw (default) or qcow2.")
      .values("options,o", "KEY=VALUE,...", "Its options, as for weir create.")
      .value("size", "SIZE", "Size of the empty disk to be made, instead of an IMAGE to be converted.")
      .flag("json", "Print JSON with the keys of qemu-img measure.")
      .optional_argument("IMAGE", "The image to be converted, with its whole chain.");
}

outcome<int> run(const given_options& given) {
  auto request = read_request(given);
  if (request.has_error()) return request.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  (*host)->let_signals_kill();
  return (*host)->run(measure(**host, std::move(*request)));
}

}  // namespace

verb measure_verb() {
  return {.name = "measure",
          .synopsis = "[-f FMT] [-U] [-O FMT] [-o KEY=VALUE,...] [--json] (--size SIZE | IMAGE)",
          .summary = "tell how much space a new image would take",
          .description =
              "Tells how many bytes the storage of a new image must have: for the content now, and with "
              "everything allocated; and what its dirty bitmaps would take on top, where both images keep "
              "some. Compression "
              "is not taken into account.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
