#include "cli/human_size.hpp"
#include "cli/image_options.hpp"
#include "cli/plain_line.hpp"
#include "cli/snapshot_text.hpp"
#include "cli/verbs.hpp"
#include "engine/block/backing_name.hpp"
#include "engine/control/image_info.hpp"

#include <boost/json.hpp>

#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace weir::cli {
namespace {

namespace json = boost::json;

using layer_list = std::vector<std::shared_ptr<layer>>;

/// qemu-img's node below the format: the file itself.
json::object file_node(const layer& described) {
  json::object info{{"children", json::array{}},
                    {"virtual-size", described.image->storage_at(0).size()},
                    {"filename", describe(described.model.source)},
                    {"format", "file"},
                    {"format-specific", {{"type", "file"}, {"data", json::object{}}}},
                    {"dirty-flag", false}};
  const json::object whole = image_info(described, nullptr);
  if (const json::value* allocated = whole.if_contains("actual-size")) info["actual-size"] = *allocated;
  return {{"name", "file"}, {"info", std::move(info)}};
}

/// The layer's object; the full backing name is worked out where the backing image was not opened.
json::object describe_layer(const layer& described, const layer* below) {
  json::object info = image_info(described, below);
  info["children"] = json::array{file_node(described)};
  const auto& backing = described.image->backing();
  if (!backing || below != nullptr) return info;
  const auto parsed = parse_backing_string(backing->name, described.model.source);
  info["full-backing-filename"] = parsed.has_value() ? describe(parsed->source) : backing->name;
  return info;
}

std::string text_of(const json::value& value) {
  return value.is_string() ? std::string(value.get_string()) : json::serialize(value);
}

void print_line(std::string_view key, const std::string& value) {
  std::printf("%.*s: %s\n", static_cast<int>(key.size()), key.data(), plain_line(value).c_str());
}

void print_nested(const json::value& value, std::string_view key, std::size_t indent);

/// The members of an object or array, one per line, as qemu-img does.
void print_members(const json::value& value, std::size_t indent) {
  if (const json::array* list = value.if_array()) {
    for (std::size_t at = 0; at < list->size(); ++at)
      print_nested((*list)[at], "[" + std::to_string(at) + "]", indent);
    return;
  }
  for (const json::key_value_pair& member : value.get_object()) {
    std::string key = member.key();
    for (char& c : key) c = c == '-' ? ' ' : c;
    print_nested(member.value(), key, indent);
  }
}

void print_nested(const json::value& value, std::string_view key, std::size_t indent) {
  const std::string line = std::string(indent, ' ').append(key);
  if (!value.is_array() && !value.is_object()) return print_line(line, text_of(value));
  std::printf("%s:\n", line.c_str());
  print_members(value, indent + 4);
}

void print_specific(const json::object& specific) {
  const json::object& data = specific.at("data").get_object();
  if (data.empty()) return;
  std::puts("Format specific information:");
  print_members(data, 4);
}

void print_human(const json::object& info) {
  print_line("image", text_of(info.at("filename")));
  print_line("file format", text_of(info.at("format")));
  const auto size = info.at("virtual-size").to_number<std::uint64_t>();
  print_line("virtual size", human_size(size) + " (" + std::to_string(size) + " bytes)");
  if (const json::value* allocated = info.if_contains("actual-size")) {
    print_line("disk size", human_size(allocated->to_number<std::uint64_t>()));
  }
  if (const json::value* grain = info.if_contains("cluster-size"))
    print_line("cluster_size", text_of(*grain));
  if (const json::value* backing = info.if_contains("backing-filename")) {
    const std::string full = text_of(info.at("full-backing-filename"));
    print_line("backing file",
               text_of(*backing) + (full == text_of(*backing) ? "" : " (actual path: " + full + ")"));
  }
  if (const json::value* format = info.if_contains("backing-filename-format")) {
    print_line("backing file format", text_of(*format));
  }
  if (const json::value* snapshots = info.if_contains("snapshots"))
    std::fputs(snapshot_table(snapshots->get_array()).c_str(), stdout);
  if (const json::value* specific = info.if_contains("format-specific"))
    print_specific(specific->get_object());
}

void print(const layer_list& layers, bool as_json, bool whole_chain) {
  json::array infos;
  for (std::size_t depth = 0; depth < layers.size(); ++depth) {
    const layer* below = depth + 1 < layers.size() ? layers[depth + 1].get() : nullptr;
    infos.push_back(describe_layer(*layers[depth], below));
  }
  if (as_json) {
    const json::value shown = whole_chain ? json::value(infos) : infos.front();
    std::puts(json::serialize(shown).c_str());
    return;
  }
  for (std::size_t at = 0; at < infos.size(); ++at) {
    if (at > 0) std::puts("");
    print_human(infos[at].get_object());
  }
}

task<outcome<int>> info(engine_host& host, std::string image, image_settings settings, bool as_json) {
  outcome<layer_model> top = parse_image(image, settings);
  if (top.has_error()) co_return top.error();
  auto layers = co_await open_layers(host, std::move(*top), settings);
  if (layers.has_error()) co_return layers.error();
  print(*layers, as_json, !settings.alone);
  const result<void> closed = co_await close_layers(*layers);
  if (closed.has_error()) co_return make_failure(closed.error(), image);
  co_return exit_done;
}

void declare(option_set& options) {
  declare_image_options(options);
  declare_snapshot_option(options);
  options.flag("json", "Print JSON with the keys of qemu-img info.")
      .flag("backing-chain", "Show every image of the chain.")
      .argument("IMAGE", "The image.");
}

outcome<int> run(const given_options& given) {
  auto settings = read_image_options(given);
  if (settings.has_error()) return settings.error();
  settings->alone = !given.has("backing-chain");
  auto host = engine_host::create();
  if (host.has_error()) return host.error();
  (*host)->let_signals_kill();
  return (*host)->run(info(**host, *given.value("IMAGE"), *settings, given.has("json")));
}

}  // namespace

verb info_verb() {
  return {.name = "info",
          .synopsis = "[--json] [--backing-chain] [-f FMT] [-l SNAPSHOT] [-U] IMAGE",
          .summary = "show what an image is",
          .description =
              "Shows format, sizes, backing image and format-specific facts.\n\nWithout "
              "--backing-chain only the image's own header is read; the backing image need not exist.",
          .declare = declare,
          .run = run};
}

}  // namespace weir::cli
