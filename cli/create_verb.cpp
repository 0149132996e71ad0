#include "cli/image_options.hpp"
#include "cli/new_image.hpp"
#include "cli/verbs.hpp"
#include "engine/base/size_text.hpp"
#include "engine/block/backing_name.hpp"

#include <optional>
#include <utility>

namespace weir::cli {
namespace {

struct create_request {
  std::string path;
  const format_driver* format = nullptr;
  std::optional<std::uint64_t> size;
  bool check_backing = true;
  image_create_options options;
};

outcome<void> read_backing(const given_options& given, create_request& request) {
  const auto backing = given.value("backing");
  if (!backing) {
    if (given.has("backing-format")) return usage_failure("-F is given without -b");
    return {};
  }
  const auto format = given.value("backing-format");
  if (!format) {
    return make_failure(errc::unsupported_feature, request.path,
                        "backing file without backing format; add -F with the format of '" + *backing + "'");
  }
  if (auto known = find_format(*format); known.has_error()) return known.error();
  if (!request.format->can_have_backing) {
    return make_failure(errc::unsupported_feature, request.path,
                        "format '" + std::string(request.format->name) + "' has no backing files");
  }
  request.options.backing = backing_reference{.name = *backing, .format = *format};
  return {};
}

outcome<create_request> read_request(const given_options& given) {
  create_request request;
  auto path = path_to_make(*given.value("IMAGE"));
  if (path.has_error()) return path.error();
  request.path = std::move(*path);
  auto format = find_format(given.value("format").value_or("raw"));
  if (format.has_error()) return format.error();
  request.format = *format;
  auto options = parse_format_options(given.values("options"));
  if (options.has_error()) return options.error();
  request.options.options = std::move(*options);
  auto size = given.size("SIZE");
  if (size.has_error()) return size.error();
  request.size = *size;
  request.check_backing = !given.has("unsafe");
  if (auto backing = read_backing(given, request); backing.has_error()) return backing.error();
  return request;
}

/// Opens the backing chain to see that it is there; its size is the default.
task<outcome<std::uint64_t>> size_of_backing(engine_host& host, const create_request& request) {
  layer_source place;
  place.path = request.path;
  auto parsed = parse_backing_string(request.options.backing->name, place);
  if (parsed.has_error()) co_return parsed.error();
  layer_model top;
  top.source = parsed->source;
  top.slice = parsed->slice;
  top.format = request.options.backing->format;
  auto layers = co_await open_layers(host, std::move(top), image_settings{});
  if (layers.has_error()) co_return layers.error();
  const std::uint64_t size = layers->front()->image->virtual_size();
  const result<void> closed = co_await close_layers(*layers);
  if (closed.has_error()) co_return make_failure(closed.error(), request.options.backing->name);
  co_return size;
}

task<outcome<int>> create(engine_host& host, create_request request) {
  if (request.options.backing && (request.check_backing || !request.size)) {
    const outcome<std::uint64_t> size = co_await size_of_backing(host, request);
    if (size.has_error()) co_return size.error();
    if (!request.size) request.size = *size;
  }
  if (!request.size) co_return usage_failure("SIZE is missing");
  request.options.virtual_size = *request.size;
  auto made = co_await new_image::create(host, request.path, *request.format, std::move(request.options));
  if (made.has_error()) co_return made.error();
  const outcome<void> placed = (*made)->put_in_place();
  if (placed.has_error()) co_return placed.error();
  co_return exit_done;
}

void declare(option_set& options) {
  options.value("format,f", "FMT", "Format of the new image: raw (default), qcow2 or qed.")
      .value("backing,b", "BACKING", "Backing image, as it is to be recorded; relative names hang off IMAGE.")
      .value("backing-format,F", "FMT", "Format of the backing image; needed with -b.")
      .flag("unsafe,u", "Do not look whether the backing image can be opened.")
      .values(
          "options,o", "KEY=VALUE,...",
          "Options of the format, as qemu-img's. qcow2: compat cluster_size refcount_bits extended_l2 "
          "lazy_refcounts preallocation=off|metadata|falloc|full compression_type data_file data_file_raw "
          "(lazy_refcounts is recorded for others; weir writes counts in order and never needs it); qed: "
          "cluster_size table_size; raw: preallocation.")
      .argument("IMAGE", "The image to make. An image that is there and not in use is replaced.")
      .optional_argument("SIZE", "Size the guest sees; may be left out with -b.");
}

outcome<int> run(const given_options& given) {
  auto request = read_request(given);
  if (request.has_error()) return request.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(create(**host, std::move(*request)));
}

}  // namespace

verb create_verb() {
  return {.name = "create",
          .synopsis = "[-f FMT] [-b BACKING -F FMT] [-u] [-o KEY=VALUE,...] IMAGE [SIZE]",
          .summary = "make an empty image",
          .description =
              "Makes an empty image of SIZE bytes. With -b it is an overlay: what it does not hold is "
              "read from BACKING, whose size is the default for SIZE.\n\nThe image appears under its "
              "name only once it is complete.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
