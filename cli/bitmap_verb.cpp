#include "cli/image_options.hpp"
#include "cli/verbs.hpp"
#include "engine/block/bitmap_store.hpp"
#include "engine/block/cluster_bytes.hpp"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace weir::cli {
namespace {

constexpr std::array<std::string_view, 6> step_names{"add", "remove", "clear", "enable", "disable", "merge"};
constexpr std::uint64_t largest_default_granularity = 64 * KiB;
constexpr std::uint64_t smallest_default_granularity = 4 * KiB;

struct bitmap_request {
  std::string image;
  std::string name;
  image_settings settings;
  std::vector<std::string> steps;    ///< in the order given
  std::vector<std::string> sources;  ///< of the merges, in their order
  std::optional<std::uint64_t> granularity;
  std::string source_file;  ///< empty: the image itself
  image_settings source_settings;
};

outcome<bitmap_store*> bitmaps_of(image& opened, const std::string& name) {
  bitmap_store* kept = opened.bitmaps();
  if (kept != nullptr) return kept;
  return make_failure(errc::not_supported, name,
                      "a " + std::string(opened.format()) + " image like this has no bitmaps");
}

/// A cluster, but 4 KiB to 64 KiB, as QEMU chooses.
std::uint64_t default_granularity(const image& opened) {
  return std::clamp(cluster_bytes(opened), smallest_default_granularity, largest_default_granularity);
}

/// The bits of a bitmap of another image.
task<outcome<dirty_bitmap>> read_source(engine_host& host, const bitmap_request& request, std::string name) {
  std::optional<dirty_bitmap> answer;
  const auto copy_bits = [&](image& opened) -> task<outcome<void>> {
    const outcome<bitmap_store*> kept = bitmaps_of(opened, request.source_file);
    if (kept.has_error()) co_return kept.error();
    const outcome<const dirty_bitmap*> bits = co_await (*kept)->load(name);
    if (bits.has_error()) co_return bits.error();
    answer = **bits;
    co_return outcome<void>{};
  };
  const outcome<void> done =
      co_await use_image(host, request.source_file, request.source_settings, copy_bits);
  if (done.has_error()) co_return done.error();
  co_return *std::move(answer);
}

task<outcome<void>> merge(engine_host& host, bitmap_store& kept, const bitmap_request& request,
                          std::string source) {
  if (!request.source_file.empty()) {
    const outcome<dirty_bitmap> other = co_await read_source(host, request, std::move(source));
    if (other.has_error()) co_return other.error();
    co_return co_await kept.merge(request.name, *other);
  }
  const outcome<const dirty_bitmap*> own = co_await kept.load(std::move(source));
  if (own.has_error()) co_return own.error();
  const dirty_bitmap copy = **own;
  co_return co_await kept.merge(request.name, copy);
}

task<outcome<void>> change(engine_host& host, image& opened, bitmap_store& kept,
                           const bitmap_request& request) {
  std::size_t merged = 0;
  outcome<void> done;
  for (const std::string& step : request.steps) {
    if (step == "add") {
      done = kept.add(request.name, request.granularity.value_or(default_granularity(opened)), true);
    } else if (step == "remove") {
      done = kept.remove(request.name);
    } else if (step == "clear") {
      done = co_await kept.clear(request.name);
    } else if (step == "merge") {
      done = co_await merge(host, kept, request, request.sources[merged++]);
    } else {
      done = co_await kept.set_enabled(request.name, step == "enable");
    }
    if (done.has_error()) co_return done;
  }
  co_return co_await kept.store();
}

task<outcome<void>> change_or_forget(engine_host& host, image& opened, const bitmap_request& request) {
  const outcome<bitmap_store*> kept = bitmaps_of(opened, request.image);
  if (kept.has_error()) co_return kept.error();
  outcome<void> done = co_await change(host, opened, **kept, request);
  if (done.has_error()) (*kept)->forget_changes();
  co_return done;
}

task<outcome<int>> bitmap(engine_host& host, bitmap_request request) {
  const auto use = [&](image& opened) { return change_or_forget(host, opened, request); };
  const outcome<void> done = co_await use_image(host, request.image, request.settings, use);
  if (done.has_error()) co_return done.error();
  co_return exit_done;
}

void declare(option_set& options) {
  declare_image_options(options);
  options.flag("add", "Add the bitmap; it records changes from then on.")
      .flag("remove", "Remove it.")
      .flag("clear", "Clear all its bits.")
      .flag("enable", "Let it record changes.")
      .flag("disable", "Let it record no more.")
      .values("merge", "SOURCE", "Add the bits of the bitmap SOURCE. May be given several times.")
      .value("granularity,g", "SIZE",
             "With --add: bytes of the disk for each bit, a power of two from 512 to 2G; by default the "
             "cluster size, but 4K to 64K.")
      .value("source-file,b", "SOURCE_FILE", "With --merge: the image that SOURCE is in, instead of IMAGE.")
      .value("source-format,F", "FMT", "Format of SOURCE_FILE.")
      .argument("IMAGE", "The image. Nobody else may be using it.")
      .argument("NAME", "The bitmap.");
}

outcome<void> read_source_options(const given_options& given, bitmap_request& request) {
  request.sources = given.values("merge");
  request.source_file = given.value("source-file").value_or("");
  request.source_settings.format = given.value("source-format").value_or("");
  if (!request.source_file.empty() && request.sources.empty()) return usage_failure("-b wants --merge");
  if (request.source_settings.format.empty()) return {};
  if (request.source_file.empty()) return usage_failure("-F is given without -b");
  if (auto known = find_format(request.source_settings.format); known.has_error()) return known.error();
  return {};
}

outcome<int> run(const given_options& given) {
  bitmap_request request;
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.settings = *settings;
  request.settings.writable = true;
  request.settings.bitmaps = bitmap_care::leave;
  request.image = *given.value("IMAGE");
  request.name = *given.value("NAME");
  for (const std::string& name : given.names_in_order()) {
    if (std::ranges::find(step_names, name) != step_names.end()) request.steps.push_back(name);
  }
  if (request.steps.empty())
    return usage_failure("one of --add, --remove, --clear, --enable, --disable, --merge is needed");
  auto granularity = given.size("granularity");
  if (granularity.has_error()) return granularity.error();
  request.granularity = *granularity;
  if (request.granularity && !given.has("add")) return usage_failure("-g wants --add");
  if (auto source = read_source_options(given, request); source.has_error()) return source.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(bitmap(**host, std::move(request)));
}

}  // namespace

verb bitmap_verb() {
  return {.name = "bitmap",
          .synopsis =
              "(--add [-g SIZE] | --remove | --clear | --enable | --disable | --merge SOURCE [-b SOURCE_FILE "
              "[-F FMT]])... [-f FMT] IMAGE NAME",
          .summary = "change the persistent dirty bitmaps of an image",
          .description =
              "A dirty bitmap says which parts of a disk changed since some moment, for incremental backups. "
              "It is "
              "kept in the qcow2 file (version 3), and weir serve and QEMU record in it what the guest "
              "changes.\n\n"
              "Several actions are done in the order given, all or none of them. weir info lists the "
              "bitmaps. One "
              "marked in-use was not closed by its last writer: its bits mean nothing, and it can only be "
              "removed.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
