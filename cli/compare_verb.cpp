#include "cli/content_compare.hpp"
#include "cli/image_options.hpp"
#include "cli/progress.hpp"
#include "cli/verbs.hpp"

#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

constexpr int exit_same = 0;
constexpr int exit_different = 1;
constexpr int exit_trouble = 2;

struct compare_request {
  std::string a;
  std::string b;
  image_settings a_settings;
  image_settings b_settings;
  bool strict = false;
  progress_style style = progress_style::none;
};

outcome<int> tell(const std::optional<content_difference>& difference) {
  if (!difference) {
    std::puts("Images are identical.");
    return exit_same;
  }
  const auto offset = static_cast<unsigned long long>(difference->offset);
  if (difference->allocation) {
    std::printf("Strict mode: Offset %llu allocation mismatch!\n", offset);
  } else {
    std::printf("Content mismatch at offset %llu!\n", offset);
  }
  return exit_different;
}

task<outcome<int>> compare_opened(engine_host& host, disk& a, disk& b, const compare_request& request) {
  if (a.size() != b.size()) {
    if (request.strict) {
      std::puts("Strict mode: Image size mismatch!");
      co_return exit_different;
    }
    std::fputs("weir: compare: the sizes differ; what one has more must read as zero\n", stderr);
  }
  progress_meter meter(request.style, "compare");
  compare_settings settings;
  settings.strict = request.strict;
  settings.progress = [&](std::uint64_t done, std::uint64_t total) {
    meter.update(done, total);
    return !host.interrupted();
  };
  const auto difference = co_await compare_disks(a, b, std::move(settings));
  meter.finish();
  if (difference.has_error()) co_return difference.error();
  co_return tell(*difference);
}

task<outcome<int>> compare(engine_host& host, compare_request request) {
  auto a = co_await open_disk(host, request.a, request.a_settings);
  if (a.has_error()) co_return a.error();
  auto b = co_await open_disk(host, request.b, request.b_settings);
  outcome<int> answer = exit_trouble;
  if (b.has_value()) {
    answer = co_await compare_opened(host, **a, **b, request);
    static_cast<void>(co_await close_disk(**b));
  } else {
    answer = b.error();
  }
  static_cast<void>(co_await close_disk(**a));
  co_return answer;
}

void declare(option_set& options) {
  declare_image_options(options);
  options.value("second-format,F", "FMT", "Format of B.")
      .value("snapshot,l", "NAME|ID", "Compare A as it was in this internal snapshot.")
      .value("second-snapshot", "NAME|ID", "The same for B.")
      .flag("strict,s", "Sizes and allocation must agree too.")
      .progress()
      .argument("A", "One image.")
      .argument("B", "The other.");
}

outcome<int> run(const given_options& given) {
  compare_request request;
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.a_settings = *settings;
  request.b_settings = *settings;
  request.b_settings.format = given.value("second-format").value_or("");
  request.b_settings.snapshot = given.value("second-snapshot").value_or("");
  if (!request.b_settings.format.empty()) {
    if (auto known = find_format(request.b_settings.format); known.has_error()) return known.error();
  }
  request.a = *given.value("A");
  request.b = *given.value("B");
  request.strict = given.has("strict");
  const auto style = parse_progress(given.value("progress"));
  if (!style) return usage_failure("progress: only =json or nothing may follow");
  request.style = *style;
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(compare(**host, std::move(request)));
}

}  // namespace

verb compare_verb() {
  return {.name = "compare",
          .synopsis = "[-f FMT] [-F FMT] [-l SNAPSHOT] [--second-snapshot SNAPSHOT] [-s] [-U] [-p] A B",
          .summary = "compare the content of two images",
          .description =
              "Compares what a guest would see of two chains. Exit code 0: same; 1: different, the "
              "first difference is named; 2: trouble.\n\nWithout -s the sizes may differ if what one "
              "has more reads as zero.",
          .declare = declare,
          .run = run,
          .failed = exit_trouble};
}

}  // namespace weir::cli
