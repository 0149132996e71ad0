#include "cli/chain_map.hpp"
#include "cli/image_options.hpp"
#include "cli/named_disks.hpp"
#include "cli/verbs.hpp"

#include <boost/json.hpp>

#include <cstdio>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

void print_table(const disk& mapped, const std::vector<map_run>& runs) {
  std::vector<std::string> files;
  for (const auto& each : mapped.chain().layers()) files.push_back(describe(each->model.source));
  std::fputs(to_table(runs, files).c_str(), stdout);
}

task<outcome<int>> map(engine_host& host, std::string named, image_settings settings, bool as_json) {
  auto opened = co_await open_named_disks(host, std::move(named), settings);
  if (opened.has_error()) co_return opened.error();
  outcome<int> answer = exit_done;
  json::array disks;
  for (const auto& each : opened->disks) {
    const auto runs = co_await map_chain(*each);
    if (runs.has_error()) {
      answer = runs.error();
      break;
    }
    if (as_json) {
      disks.push_back(json::object{{"target", each->name()}, {"map", to_json(*runs)}});
    } else {
      if (opened->document) std::printf("%s:\n", each->name().c_str());
      print_table(*each, *runs);
    }
  }
  if (as_json && answer.has_value()) {
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
      .argument("IMAGE", "The image, or a domain XML file: then all its disks.");
}

outcome<int> run(const given_options& given) {
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  return (*host)->run(map(**host, *given.value("IMAGE"), *settings, given.has("json")));
}

}  // namespace

verb map_verb() {
  return {.name = "map",
          .synopsis = "[--json] [-f FMT] [-l SNAPSHOT] [-U] DOMAIN.xml | IMAGE",
          .summary = "show which layer of a chain owns which range",
          .description =
              "Lists the runs of the guest-visible content: which layer of the chain holds each "
              "(depth 0 is the active one), whether it reads as zero, and where it lies in that "
              "layer's file. The table leaves out what reads as zero.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
