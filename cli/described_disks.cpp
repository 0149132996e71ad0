#include "cli/described_disks.hpp"

#include "formats/registry.hpp"

#include <array>
#include <cerrno>
#include <fstream>
#include <utility>

namespace weir::cli {
namespace {

constexpr std::size_t sniffed_bytes = 512;

task<outcome<void>> complete(disk_model& described, const storage_opener& opener,
                             open_chain_options options) {
  auto layers = co_await open_chain(described, formats(), opener, options);
  if (layers.has_error()) {
    const bool missing = layers.error().code == errno_code(ENOENT);
    if (missing && described.startup_policy == "optional") {
      described.layers.clear();
      co_return outcome<void>{};
    }
    failure why = layers.error();
    if (!described.target.empty()) why.what.insert(0, "disk " + described.target + ": ");
    co_return why;
  }
  described = completed_model(std::move(described), *layers);
  const result<void> closed = co_await close_layers(*layers);
  if (closed.has_error()) co_return make_failure(closed.error(), describe(described.layers.front().source));
  co_return outcome<void>{};
}

}  // namespace

bool is_domain_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::array<char, sniffed_bytes> head{};
  file.read(head.data(), head.size());
  return domain_document::looks_like_xml({head.data(), static_cast<std::size_t>(file.gcount())});
}

outcome<described_disks> describe_disks(const std::string& named, const image_settings& settings) {
  described_disks described;
  if (settings.format.empty() && is_domain_file(named)) {
    auto document = domain_document::load(named);
    if (document.has_error()) return document.error();
    described.disks = document->disks();
    described.document.emplace(std::move(*document));
    return described;
  }
  auto top = parse_image(named, settings);
  if (top.has_error()) return top.error();
  disk_model image;
  image.layers.push_back(std::move(*top));
  described.disks.push_back(std::move(image));
  return described;
}

void number_disks(std::vector<disk_model>& disks) {
  unsigned next = 1;
  for (disk_model& disk : disks) next = number_layers(disk, next);
}

task<outcome<void>> complete_disks(engine_host& host, std::vector<disk_model>& disks,
                                   image_settings settings) {
  const storage_opener opener = host.opener(settings.storage);
  open_chain_options options;
  options.read_only = true;
  options.allow_remote_backing = settings.allow_remote_backing;
  unsigned next = 1;
  for (disk_model& each : disks) {
    options.probe_active = each.target.empty() && settings.format.empty();
    options.first_index = next;
    if (each.layers.empty()) continue;
    const outcome<void> completed = co_await complete(each, opener, options);
    if (completed.has_error()) co_return completed.error();
    next = number_layers(each, next);
  }
  co_return outcome<void>{};
}

std::vector<layer_model> without_invented_indexes(std::vector<layer_model> layers) {
  for (layer_model& layer : layers) {
    if (!layer.index_invented) continue;
    layer.index.reset();
    layer.index_invented = false;
  }
  return layers;
}

}  // namespace weir::cli
