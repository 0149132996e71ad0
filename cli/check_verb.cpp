#include "cli/image_options.hpp"
#include "cli/verbs.hpp"
#include "engine/block/check.hpp"
#include "formats/registry.hpp"

#include <boost/json.hpp>

#include <array>
#include <cinttypes>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

// qemu-img check's.
constexpr int exit_corrupt = 2;
constexpr int exit_leaks = 3;
constexpr int exit_not_supported = 63;

struct check_request {
  std::string image;
  image_settings settings;
  repair_mode repair = repair_mode::none;
  bool as_json = false;
};

outcome<check_request> read_request(const given_options& given) {
  check_request request;
  request.image = *given.value("IMAGE");
  request.as_json = given.has("json");
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  request.settings = *settings;
  if (const auto repair = given.value("repair")) {
    if (*repair != "leaks" && *repair != "all")
      return usage_failure("-r wants leaks or all, not '" + *repair + "'");
    request.repair = *repair == "all" ? repair_mode::all : repair_mode::leaks;
    if (given.has("force-share")) return usage_failure("-r changes the image: it does not go with -U");
  }
  return request;
}

json::object to_json(const check_report& report, std::string_view format, const std::string& image) {
  json::object shown;
  const auto put = [&](std::string_view key, std::uint64_t value) {
    if (value != 0) shown[key] = value;
  };
  put("image-end-offset", report.image_end_offset);
  put("total-clusters", report.total_clusters);
  put("corruptions", report.corruptions);
  shown["check-errors"] = report.check_errors;
  put("leaks", report.leaks);
  put("corruptions-fixed", report.corruptions_fixed);
  put("leaks-fixed", report.leaks_fixed);
  put("allocated-clusters", report.allocated_clusters);
  put("fragmented-clusters", report.fragmented_clusters);
  put("compressed-clusters", report.compressed_clusters);
  shown["filename"] = image;
  shown["format"] = format;
  return shown;
}

double percent(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) * 100.0 / static_cast<double>(whole);
}

/// qemu-img's sentences.
void print_human(const check_report& report) {
  if (report.corruptions_fixed > 0 || report.leaks_fixed > 0) {
    std::printf("The following inconsistencies were found and repaired:\n\n    %" PRIu64
                " leaked clusters\n    %" PRIu64 " corruptions\n\n",
                report.leaks_fixed, report.corruptions_fixed);
  }
  if (report.is_clean()) std::puts("No errors were found on the image.");
  if (report.corruptions > 0) {
    std::printf("\n%" PRIu64
                " errors were found on the image.\nData may be corrupted, or further writes to the image may "
                "corrupt it.\n",
                report.corruptions);
  }
  if (report.leaks > 0) {
    std::printf(
        "\n%" PRIu64
        " leaked clusters were found on the image.\nThis means waste of disk space, but no harm to data.\n",
        report.leaks);
  }
  if (report.check_errors > 0) {
    std::printf("\n%" PRIu64 " internal errors have occurred during the check.\n", report.check_errors);
  }
  if (report.total_clusters > 0) {
    std::printf("%" PRIu64 "/%" PRIu64
                " = %0.2f%% allocated, %0.2f%% fragmented, %0.2f%% compressed clusters\n",
                report.allocated_clusters, report.total_clusters,
                percent(report.allocated_clusters, report.total_clusters),
                percent(report.fragmented_clusters, report.allocated_clusters),
                percent(report.compressed_clusters, report.allocated_clusters));
  }
  if (report.image_end_offset > 0) std::printf("Image end offset: %" PRIu64 "\n", report.image_end_offset);
}

int exit_of(const check_report& report) {
  if (report.check_errors > 0) return exit_failed;
  if (report.corruptions > 0) return exit_corrupt;
  return report.leaks > 0 ? exit_leaks : exit_done;
}

task<outcome<const format_driver*>> find_driver(storage& file, std::string named) {
  if (!named.empty()) co_return formats().find(named);
  std::array<std::byte, probe_bytes> head{};
  const result<void> got = co_await file.read(0, head);
  if (got.has_error()) co_return make_failure(got.error(), file.location());
  co_return formats().probe(head);
}

void print_finding(std::string_view line) {
  std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}

task<outcome<int>> check(engine_host& host, check_request request) {
  auto named = parse_image(request.image, request.settings);
  if (named.has_error()) co_return named.error();
  const storage_opener opener = host.opener(request.settings.storage);
  auto file = co_await opener(named->source, request.repair != repair_mode::none);
  if (file.has_error()) co_return file.error();
  const auto driver = co_await find_driver(**file, named->format);
  if (driver.has_error() || (*driver)->check == nullptr) {
    const result<void> ignored = co_await (*file)->close();
    static_cast<void>(ignored);
    if (driver.has_error()) co_return driver.error();
    std::fprintf(stderr, "weir: check: %s: images of format %s have nothing to check\n",
                 request.image.c_str(), std::string((*driver)->name).c_str());
    co_return exit_not_supported;
  }
  check_options options;
  options.repair = request.repair;
  options.on_finding = print_finding;
  const auto report = co_await (*driver)->check(std::move(*file), options);
  if (report.has_error()) co_return report.error();
  if (request.as_json) {
    std::puts(json::serialize(to_json(*report, (*driver)->name, request.image)).c_str());
  } else {
    print_human(*report);
  }
  co_return exit_of(*report);
}

void declare(option_set& options) {
  declare_image_options(options);
  options
      .value("repair,r", "leaks|all",
             "Repair: leaks gives leaked space back; all puts everything right that can be without guessing.")
      .flag("json", "Print JSON with the keys of qemu-img check.")
      .argument("IMAGE", "The image. Its backing chain is not looked at.");
}

outcome<int> run(const given_options& given) {
  auto request = read_request(given);
  if (request.has_error()) return request.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  if (request->repair == repair_mode::none) (*host)->let_signals_kill();
  return (*host)->run(check(**host, std::move(*request)));
}

}  // namespace

verb check_verb() {
  return {
      .name = "check",
      .synopsis = "[-f FMT] [-r leaks|all] [--json] [-U] IMAGE",
      .summary = "check an image for damage and leaks, and repair it",
      .description =
          "Compares what the image's tables say with each other and with the file. Every finding is a line "
          "on stderr: the table, the entry, and which guest range it concerns.\n\n"
          "With -r all, data in an impossible place cannot be found again: it is reported and left as it is. "
          "A repair that is interrupted leaves the image no worse than before. "
          "Once nothing is wrong any more, an image marked dirty or corrupt can be written again.\n\n"
          "Exit status: 0 nothing wrong (any more), 1 failed or wrong usage, 2 corrupt, 3 leaks only, 63 the "
          "format has nothing to check (raw).",
      .declare = declare,
      .run = run,
      .wrong_usage = exit_failed};
}

}  // namespace weir::cli
