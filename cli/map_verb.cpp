#include "cli/chain_map.hpp"
#include "cli/image_options.hpp"
#include "cli/map_svg.hpp"
#include "cli/named_disks.hpp"
#include "cli/verbs.hpp"
#include "engine/base/durable_file.hpp"

#include <boost/json.hpp>

#include <cstdio>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace weir::cli {
namespace {

namespace json = boost::json;

struct map_output {
  bool as_json = false;
  std::optional<std::string> svg;  ///< path of a picture to draw instead
};

std::vector<std::string> files_of(const disk& mapped) {
  std::vector<std::string> files;
  for (const auto& each : mapped.chain().layers()) files.push_back(describe(each->model.source));
  return files;
}

outcome<void> draw(const std::string& path, std::span<const mapped_disk> disks) {
  const result<void> written = replace_file(path, to_svg(disks));
  if (written.has_error()) return make_failure(written.error(), path);
  return {};
}

task<outcome<int>> map(engine_host& host, std::string named, image_settings settings, map_output output) {
  auto opened = co_await open_named_disks(host, std::move(named), settings);
  if (opened.has_error()) co_return opened.error();
  outcome<int> answer = exit_done;
  json::array disks;
  std::vector<mapped_disk> drawn;
  for (const auto& each : opened->disks) {
    const auto runs = co_await map_chain(*each);
    if (runs.has_error()) {
      answer = runs.error();
      break;
    }
    if (output.svg) {
      drawn.push_back({each->name(), each->size(), files_of(*each), *runs});
    } else if (output.as_json) {
      disks.push_back(json::object{{"target", each->name()}, {"map", to_json(*runs)}});
    } else {
      if (opened->document) std::printf("%s:\n", each->name().c_str());
      std::fputs(to_table(*runs, files_of(*each)).c_str(), stdout);
    }
  }
  if (output.svg && answer.has_value()) {
    const outcome<void> done = draw(*output.svg, drawn);
    if (done.has_error()) answer = done.error();
  } else if (output.as_json && answer.has_value()) {
    const json::value shown =
        opened->document ? json::value(json::object{{"disks", disks}}) : disks.front().at("map");
    std::puts(json::serialize(shown).c_str());
  }
  const outcome<void> closed = co_await close_disks(opened->disks);
  if (answer.has_value() && closed.has_error()) co_return closed.error();
  co_return answer;
}

void declare(option_set& options) {
  declare_image_options(options);
  declare_snapshot_option(options);
  options.flag("json", "Print JSON with the keys of qemu-img map; for a domain one such list per disk.")
      .value("svg", "FILE", "Draw an SVG picture into FILE instead: one row for each layer.")
      .argument("IMAGE", "The image, or a domain XML file: then all its disks.");
}

outcome<int> run(const given_options& given) {
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  (*host)->let_signals_kill();
  if (given.has("json") && given.has("svg")) return usage_failure("either --json or --svg");
  map_output output{.as_json = given.has("json"), .svg = given.value("svg")};
  return (*host)->run(map(**host, *given.value("IMAGE"), *settings, std::move(output)));
}

}  // namespace

verb map_verb() {
  return {.name = "map",
          .synopsis = "[--json | --svg FILE] [-f FMT] [-l SNAPSHOT] [-U] DOMAIN.xml | IMAGE",
          .summary = "show which layer of a chain owns which range",
          .description =
              "Lists the runs of the guest-visible content: which layer of the chain holds each "
              "(depth 0 is the active one), whether it reads as zero, and where it lies in that "
              "layer's file. The table leaves out what reads as zero.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
