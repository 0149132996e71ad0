#include "cli/image_options.hpp"
#include "cli/new_image.hpp"
#include "cli/progress.hpp"
#include "cli/verbs.hpp"
#include "engine/base/size_text.hpp"
#include "engine/block/backing_name.hpp"
#include "engine/copy/disk_copy.hpp"

#include <bit>
#include <optional>
#include <utility>

namespace weir::cli {
namespace {

constexpr std::uint64_t sector_bytes = 512;

struct convert_request {
  std::string source;
  std::string target;
  image_settings source_settings;
  const format_driver* format = nullptr;
  std::map<std::string, std::string> options;
  std::optional<backing_reference> backing;
  bool existing = false;  ///< -n
  bool compress = false;
  bool target_is_zero = false;
  std::uint64_t sparse_bytes = 4096;
  bool may_share = true;  ///< blocks of the file system, unsearched
  progress_style style = progress_style::none;
};

outcome<void> read_sparse(const given_options& given, convert_request& request) {
  auto size = given.size("sparse-size");
  if (size.has_error()) return size.error();
  if (!*size) return {};
  request.sparse_bytes = **size;
  request.may_share = false;
  const bool legal = request.sparse_bytes == 0 ||
                     (std::has_single_bit(request.sparse_bytes) && request.sparse_bytes >= sector_bytes);
  if (!legal) return usage_failure("sparse-size: wants 0 or a power of two from 512 on");
  return {};
}

outcome<void> read_backing(const given_options& given, convert_request& request) {
  const auto backing = given.value("backing");
  if (!backing) {
    if (given.has("backing-format")) return usage_failure("-F is given without -B");
    return {};
  }
  const auto format = given.value("backing-format");
  if (!format) {
    return make_failure(errc::unsupported_feature, request.target,
                        "backing file without backing format; add -F with the format of '" + *backing + "'");
  }
  if (auto known = find_format(*format); known.has_error()) return known.error();
  if (!request.format->can_have_backing) {
    return make_failure(errc::unsupported_feature, request.target,
                        "format '" + std::string(request.format->name) + "' has no backing files");
  }
  if (request.existing)
    return usage_failure("-B records the backing image of a new image; -n writes to one that exists");
  request.backing = backing_reference{.name = *backing, .format = *format};
  return {};
}

outcome<convert_request> read_request(const given_options& given) {
  convert_request request;
  request.source = *given.value("SRC");
  request.target = *given.value("DST");
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.source_settings = *settings;
  auto format = find_format(given.value("output-format").value_or("raw"));
  if (format.has_error()) return format.error();
  request.format = *format;
  auto options = parse_format_options(given.values("options"));
  if (options.has_error()) return options.error();
  request.options = std::move(*options);
  const auto target = parse_image_name(request.target);
  if (target.has_error()) return target.error();
  // What lies on a server cannot be made here: it is there, or the copy fails.
  request.existing = given.has("no-create") || target->source.type == "network";
  if (!request.existing) {
    auto path = path_to_make(request.target);
    if (path.has_error()) return path.error();
    request.target = std::move(*path);
  }
  request.compress = given.has("compress");
  request.target_is_zero = given.has("target-is-zero");
  if (request.target_is_zero && !request.existing) return usage_failure("--target-is-zero wants -n");
  if (request.existing && !request.options.empty())
    return usage_failure("-o is for a new image, not with -n");
  if (auto sparse = read_sparse(given, request); sparse.has_error()) return sparse.error();
  if (auto backing = read_backing(given, request); backing.has_error()) return backing.error();
  const auto style = parse_progress(given.value("progress"));
  if (!style) return usage_failure("progress: only =json or nothing may follow");
  request.style = *style;
  return request;
}

task<outcome<void>> copy(engine_host& host, disk& from, disk& to, const convert_request& request,
                         bool target_is_zero) {
  if (to.size() < from.size()) {
    co_return make_failure(
        errno_code(ENOSPC), request.target,
        "has " + std::to_string(to.size()) + " bytes, the source " + std::to_string(from.size()));
  }
  if (request.compress && !to.encoding()) {
    co_return make_failure(errc::unsupported_feature, request.target,
                           "this image cannot hold compressed data (-c)");
  }
  progress_meter meter(request.style, "convert");
  disk_copy_options options;
  options.target_is_zero = target_is_zero;
  options.sparse_bytes = request.sparse_bytes;
  options.may_share = request.may_share;
  options.encode = request.compress;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    meter.update(done, total);
    return !host.interrupted();
  };
  const auto copied = co_await copy_disk(from, to, std::move(options));
  meter.finish();
  if (host.interrupted()) co_return interrupted_failure(request.target);
  if (copied.has_error()) co_return copied.error();
  const result<void> flushed = co_await to.flush();
  if (flushed.has_error()) co_return make_failure(flushed.error(), request.target);
  co_return outcome<void>{};
}

/// Opens what is to be written, copies, closes.
task<outcome<void>> fill(engine_host& host, disk& from, std::string path, const convert_request& request) {
  image_settings settings;
  settings.format = request.format->name;
  settings.writable = true;
  settings.storage = request.source_settings.storage;
  settings.storage.locking = image_locking::exclusive;
  auto to = co_await open_disk(host, path, settings);
  if (to.has_error()) co_return to.error();
  const bool is_zero = request.target_is_zero || (!request.existing && !request.backing);
  const outcome<void> copied = co_await copy(host, from, **to, request, is_zero);
  const outcome<void> closed = co_await close_disk(**to);
  co_return copied.has_error() ? copied : closed;
}

task<outcome<void>> convert_to_new(engine_host& host, disk& from, const convert_request& request) {
  image_create_options options;
  options.virtual_size = from.size();
  options.backing = request.backing;
  options.options = request.options;
  auto made = co_await new_image::create(host, request.target, *request.format, std::move(options));
  if (made.has_error()) co_return made.error();
  const outcome<void> filled = co_await fill(host, from, (*made)->temporary_path(), request);
  if (filled.has_error()) co_return (*made)->as_user_sees(filled.error());
  co_return (*made)->put_in_place();
}

task<outcome<int>> convert(engine_host& host, convert_request request) {
  auto from = co_await open_disk(host, request.source, request.source_settings);
  if (from.has_error()) co_return from.error();
  outcome<void> done;
  if (request.existing) {
    done = co_await fill(host, **from, request.target, request);
  } else {
    done = co_await convert_to_new(host, **from, request);
  }
  const outcome<void> closed = co_await close_disk(**from);
  if (done.has_error()) co_return done.error();
  if (closed.has_error()) co_return closed.error();
  co_return exit_done;
}

void declare(option_set& options) {
  declare_image_options(options);
  declare_snapshot_option(options);
  options.value("output-format,O", "FMT", "Format of DST: raw (default), qcow2 or qed.")
      .values("options,o", "KEY=VALUE,...", "Options of the new image, as for weir create.")
      .flag("compress,c",
            "Write the data compressed (qcow2), as -o compression_type=zlib (default) or zstd says.")
      .value("backing,B", "BACKING", "Backing image to record in DST. All of SRC's content is still copied.")
      .value("backing-format,F", "FMT", "Format of that backing image.")
      .flag("no-create,n", "Write to DST, which exists and is large enough, instead of making it.")
      .flag("target-is-zero", "With -n: DST reads as zero throughout, so zeros need not be written.")
      .value(
          "sparse-size,S", "SIZE",
          "Zeros shorter than this are written as data (default 4K); 0 writes all of them. Where SRC and "
          "DST are files of one file system that can share blocks (XFS, btrfs), raw data comes to be shared "
          "and is not searched for zeros; naming a SIZE has all of it searched and copied.")
      .progress()
      .argument("SRC", "The image to copy, with its whole chain.")
      .argument("DST",
                "The image to make. An image that is there and not in use is replaced. An NBD export must be "
                "there and "
                "large enough.");
}

outcome<int> run(const given_options& given) {
  auto request = read_request(given);
  if (request.has_error()) return request.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(convert(**host, std::move(*request)));
}

}  // namespace

verb convert_verb() {
  return {.name = "convert",
          .synopsis =
              "[-f FMT] [-l SNAPSHOT] [-O FMT] [-c] [-o KEY=VALUE,...] [-B BACKING -F FMT] [-n] "
              "[--target-is-zero] [-S SIZE] [-U] [-p] SRC DST",
          .summary = "copy a whole chain into one image",
          .description =
              "Copies what a guest sees of SRC into DST. Zeros become holes or zero clusters.\n\nDST "
              "appears under its name only once it is complete and durable: an interrupted or failed "
              "conversion leaves nothing, and an older image there as it was. With -n it is written in "
              "place.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
