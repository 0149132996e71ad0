#include "cli/image_options.hpp"
#include "cli/library_compare.hpp"
#include "cli/progress.hpp"
#include "cli/verbs.hpp"
#include "formats/qcow1/qcow1.hpp"
#include "formats/registry.hpp"

#include <boost/json.hpp>

#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

constexpr int exit_same = 0;
constexpr int exit_different = 1;
constexpr int exit_trouble = 2;
constexpr int exit_not_judged = 3;

struct verify_request {
  std::string image;
  image_settings settings;
  bool as_json = false;
  progress_style style = progress_style::none;
};

/// weir's own way of reading every format: qcow version 1 without libqcow.
const format_table& own_formats() {
  static const std::vector<format_driver> drivers = [] {
    std::vector<format_driver> all(formats().drivers().begin(), formats().drivers().end());
    for (format_driver& each : all) {
      if (each.name == "qcow") each.open = &qcow1::open_map;
    }
    return all;
  }();
  static const format_table table(drivers);
  return table;
}

task<outcome<std::unique_ptr<disk>>> open_alone(engine_host& host, const verify_request& request) {
  outcome<layer_model> top = parse_image(request.image, request.settings);
  if (top.has_error()) co_return top.error();
  disk_model described;
  described.layers.push_back(*std::move(top));
  described.terminated = true;
  open_chain_options options;
  options.read_only = true;
  options.probe_active = true;
  options.image.passphrase = request.settings.passphrase;
  const storage_opener opener = host.opener(request.settings.storage);
  auto layers = co_await open_chain(described, own_formats(), opener, options);
  if (layers.has_error()) co_return layers.error();
  co_return make_disk(host, std::move(*layers), request.image, true);
}

int exit_code(const library_verdict& verdict) {
  if (verdict.difference) return exit_different;
  return verdict.not_judged.empty() ? exit_same : exit_not_judged;
}

void print_json(const library_verdict& verdict) {
  namespace json = boost::json;
  constexpr std::string_view words[] = {"same", "different", "", "not-judged"};
  json::object shown{{"result", words[exit_code(verdict)]}, {"compared-bytes", verdict.compared_bytes}};
  if (verdict.difference) shown["offset"] = *verdict.difference;
  json::array left(verdict.not_judged.begin(), verdict.not_judged.end());
  shown["not-judged"] = std::move(left);
  std::puts(json::serialize(shown).c_str());
}

void print_text(const library_verdict& verdict) {
  const auto compared = static_cast<unsigned long long>(verdict.compared_bytes);
  if (verdict.difference) {
    std::printf("weir and libqcow disagree, first at offset %llu.\n",
                static_cast<unsigned long long>(*verdict.difference));
  } else if (verdict.not_judged.empty()) {
    std::printf("weir and libqcow read the same: %llu bytes compared.\n", compared);
  } else {
    std::printf("No difference in %llu bytes compared.\n", compared);
  }
  for (const std::string& each : verdict.not_judged) std::printf("Not judged: %s\n", each.c_str());
}

task<outcome<int>> verify(engine_host& host, verify_request request) {
  auto opened = co_await open_alone(host, request);
  if (opened.has_error()) co_return opened.error();
  progress_meter meter(request.style, "verify");
  const compare_progress progress = [&](std::uint64_t done, std::uint64_t total) {
    meter.update(done, total);
    return !host.interrupted();
  };
  const auto verdict = co_await compare_with_library(**opened, progress);
  meter.finish();
  const outcome<void> closed = co_await close_disk(**opened);
  if (verdict.has_error()) co_return verdict.error();
  if (closed.has_error()) co_return closed.error();
  if (request.as_json) {
    print_json(*verdict);
  } else {
    print_text(*verdict);
  }
  co_return exit_code(*verdict);
}

void declare(option_set& options) {
  declare_image_options(options);
  options
      .flag("json", "Print JSON: result (same, different or not-judged), compared-bytes, offset, not-judged.")
      .progress()
      .argument("IMAGE", "A qcow2 image, or one of qcow version 1.");
}

outcome<int> run(const given_options& given) {
  verify_request request;
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.settings = *settings;
  request.image = *given.value("IMAGE");
  request.as_json = given.has("json");
  const auto style = parse_progress(given.value("progress"));
  if (!style) return usage_failure("progress: only =json or nothing may follow");
  request.style = *style;
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(verify(**host, std::move(request)));
}

}  // namespace

verb verify_verb() {
  return {
      .name = "verify",
      .synopsis = "[-f FMT] [-U] [--json] [-p] IMAGE",
      .summary = "compare weir's reading of an image with libqcow's",
      .description =
          "Reads one image through weir's own code and through libqcow, an independent implementation that "
          "runs in a process of its own, and compares what they read, cluster by cluster. The backing chain "
          "is not looked at.\n\nlibqcow is asked only where it is known to be right: images without backing "
          "image, encryption, external data file, extended L2 entries and zstd, and of those all but zero "
          "clusters and a last cluster that the file's end cuts off. What it was not asked, or refused, is "
          "named.\n\nExit code 0: everything was compared and is the same; 1: a difference, the first offset "
          "is "
          "named; 2: trouble, the image cannot be read; 3: no difference found, but not everything was "
          "judged.",
      .declare = declare,
      .run = run,
      .failed = exit_trouble};
}

}  // namespace weir::cli
