#include "cli/chain_json.hpp"
#include "cli/described_disks.hpp"
#include "cli/image_options.hpp"
#include "cli/plain_line.hpp"
#include "cli/verbs.hpp"

#include <boost/json/serialize.hpp>

#include <cstdio>
#include <string>
#include <utility>

namespace weir::cli {
namespace {

namespace json = boost::json;

struct chain_request {
  std::string named;
  image_settings settings;
  bool open = true;
  bool as_json = false;
  std::string disk;    ///< empty: all
  std::string lookup;  ///< empty: none
};

void print_json(const json::object& object) {
  std::puts(json::serialize(object).c_str());
}

void print_layers(const std::vector<layer_model>& layers, bool terminated, const char* indent) {
  for (const layer_model& layer : layers) {
    std::printf("%s%-4s %-6s %-8s %s\n", indent,
                layer.index ? ("[" + std::to_string(*layer.index) + "]").c_str() : "",
                layer.format.empty() ? "?" : layer.format.c_str(), layer.source.type.c_str(),
                plain_line(describe(layer.source)).c_str());
  }
  if (layers.empty()) {
    std::printf("%sno medium\n", indent);
  } else if (!terminated) {
    std::printf("%sgoes on as the last image's header says\n", indent);
  }
}

void print_text(const std::vector<disk_model>& disks) {
  for (const disk_model& disk : disks) {
    if (!disk.target.empty()) {
      std::printf("%s: %s%s\n", disk.target.c_str(), disk.device.c_str(), disk.readonly ? ", read-only" : "");
    }
    print_layers(disk.layers, disk.terminated, disk.target.empty() ? "" : "  ");
    if (!disk.mirror) continue;
    std::printf("  mirror (%s%s)\n", disk.mirror->job.c_str(), disk.mirror->ready == "yes" ? ", ready" : "");
    print_layers(disk.mirror->layers, true, "    ");
  }
}

/// Prints the layer that is looked up. False if no layer matches.
bool print_layer(const std::vector<disk_model>& disks, const std::string& spec) {
  const auto found = look_up_layer(disks, spec);
  if (!found) return false;
  const disk_model& disk = disks[found->disk];
  print_json(to_json(disk.layers[found->depth], found->depth, disk.target));
  return true;
}

/// Keeps only the disk asked for.
outcome<void> choose_disk(const chain_request& request, std::vector<disk_model>& disks) {
  if (request.disk.empty()) return outcome<void>{};
  std::erase_if(disks, [&](const disk_model& disk) { return disk.target != request.disk; });
  if (!disks.empty()) return outcome<void>{};
  return make_failure(errc::not_supported, request.named, "no disk '" + request.disk + "'");
}

outcome<int> print(const chain_request& request, const std::vector<disk_model>& disks) {
  if (!request.lookup.empty()) {
    if (print_layer(disks, request.lookup)) return exit_done;
    return make_failure(errc::not_supported, request.lookup, "names no layer of " + request.named);
  }
  if (request.as_json) {
    print_json(to_json(disks));
  } else {
    print_text(disks);
  }
  return exit_done;
}

task<outcome<int>> open_and_print(engine_host& host, chain_request request, std::vector<disk_model> disks) {
  const outcome<void> completed = co_await complete_disks(host, disks, request.settings);
  if (completed.has_error()) co_return completed.error();
  const outcome<void> chosen = choose_disk(request, disks);
  if (chosen.has_error()) co_return chosen.error();
  co_return print(request, disks);
}

/// What needs no image: the description alone. Nothing if the images must be opened.
std::optional<outcome<int>> answer_from_description(const chain_request& request,
                                                    std::vector<disk_model> disks) {
  if (request.open && request.lookup.empty()) return std::nullopt;
  if (!request.lookup.empty()) number_disks(disks);
  if (const outcome<void> chosen = choose_disk(request, disks); chosen.has_error()) return chosen.error();
  if (request.open) {
    if (!print_layer(disks, request.lookup)) return std::nullopt;
    return exit_done;
  }
  return print(request, disks);
}

outcome<int> show_backing_string(const std::string& text) {
  const auto parsed = parse_backing_string(text, layer_source{});
  if (parsed.has_error()) return parsed.error();
  print_json(to_json(*parsed));
  return exit_done;
}

void declare(option_set& options) {
  declare_image_options(options);
  options.flag("json", "Print JSON.")
      .flag("no-open", "Show what the description says; open no image.")
      .value("disk", "TARGET", "Only this disk of a domain.")
      .value("lookup", "SPEC", "Print only the layer that vda, vda[2] or a path names.")
      .value("backing-string", "TEXT",
             "Show how a backing-file string is understood; no image is named then.")
      .optional_argument("IMAGE", "The image, or a domain XML file: then all its disks.");
}

outcome<int> run(const given_options& given) {
  const auto named = given.value("IMAGE");
  if (const auto text = given.value("backing-string")) {
    if (named) return usage_failure("--backing-string and an image exclude each other");
    return show_backing_string(*text);
  }
  if (!named) return usage_failure("an image or a domain XML file is needed");
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  settings->storage.locking = image_locking::share;  // only headers are read
  const chain_request request{.named = *named,
                              .settings = *settings,
                              .open = !given.has("no-open"),
                              .as_json = given.has("json"),
                              .disk = given.value("disk").value_or(""),
                              .lookup = given.value("lookup").value_or("")};
  auto described = describe_disks(*named, *settings);
  if (described.has_error()) return described.error();
  if (auto answer = answer_from_description(request, described->disks)) return *answer;
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  (*host)->let_signals_kill();
  return (*host)->run(open_and_print(**host, request, described->disks));
}

}  // namespace

verb chain_verb() {
  return {
      .name = "chain",
      .synopsis = "[--json] [--no-open] [--disk TARGET] [--lookup SPEC] DOMAIN.xml | IMAGE",
      .summary = "show the backing chain, top to base",
      .description =
          "Shows the layers of each disk: what the domain XML describes, completed from the images' headers. "
          "Images are opened read-only for a moment, also while another process uses them.\n\n"
          "A layer is named vda[N] by its index. Indexes are those of the XML; where it has none they are "
          "given "
          "from 1, top first. In JSON, \"index\" is the XML's, or the layer's depth (0 is the active image), "
          "and "
          "\"spec\" is the layer's name.",
      .declare = declare,
      .run = run};
}

}  // namespace weir::cli
