#include "cli/named_disks.hpp"

#include "cli/described_disks.hpp"
#include "cli/option_set.hpp"
#include "formats/registry.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace weir::cli {
namespace {

zero_detection detection_of(const disk_model& model) {
  if (model.detect_zeroes == "unmap") return model.discard_unmap ? zero_detection::unmap : zero_detection::on;
  return model.detect_zeroes == "on" ? zero_detection::on : zero_detection::off;
}

task<outcome<std::unique_ptr<disk>>> open_modelled_disk(engine_host& host, disk_model model,
                                                        image_settings settings, unsigned first_index) {
  open_chain_options options;
  options.read_only = !settings.writable || model.readonly;
  options.allow_remote_backing = settings.allow_remote_backing;
  options.first_index = first_index;
  options.image.passphrase = settings.passphrase;
  const storage_opener opener = host.opener(settings.storage);
  auto layers = co_await open_chain(model, formats(), opener, options);
  if (layers.has_error()) {
    co_return failure{layers.error().code, "disk " + model.target + ": " + layers.error().what};
  }
  disk_settings about;
  about.name = model.target;
  about.read_only = options.read_only;
  about.copy_on_read = model.copy_on_read && !options.read_only;
  about.discard_unmap = model.discard_unmap;
  about.detect_zeroes = detection_of(model);
  co_return std::make_unique<disk>(host.resources(), std::make_unique<chain>(std::move(*layers)),
                                   std::move(about));
}

unsigned next_index(const disk& opened, unsigned first_index) {
  unsigned next = first_index;
  for (const auto& each : opened.chain().layers()) next = std::max(next, each->model.index.value_or(0) + 1);
  return next;
}

task<outcome<named_disks>> open_domain(engine_host& host, std::string path, image_settings settings) {
  auto document = domain_document::load(path);
  if (document.has_error()) co_return document.error();
  named_disks opened;
  unsigned index = 1;
  const std::vector<disk_model>& models = document->disks();
  for (std::size_t position = 0; position < models.size(); ++position) {
    if (models[position].layers.empty()) continue;
    auto next = co_await open_modelled_disk(host, models[position], settings, index);
    const bool may_lack = models[position].startup_policy == "optional";
    if (next.has_error() && may_lack && next.error().code == errno_code(ENOENT)) continue;
    if (next.has_error()) {
      static_cast<void>(co_await close_disks(opened.disks));
      co_return next.error();
    }
    index = next_index(**next, index);
    opened.disks.push_back(std::move(*next));
    opened.positions.push_back(position);
  }
  if (opened.disks.empty()) co_return make_failure(errc::unsupported_feature, path, "the domain has no disk");
  opened.document.emplace(std::move(*document));
  co_return opened;
}

}  // namespace

task<outcome<named_disks>> open_named_disks(engine_host& host, std::string named, image_settings settings,
                                            std::optional<std::string> image_disk_name) {
  if (settings.format.empty() && is_domain_file(named)) {
    if (!settings.snapshot.empty()) co_return usage_failure("--snapshot wants an image, not a domain");
    co_return co_await open_domain(host, std::move(named), settings);
  }
  outcome<layer_model> top = parse_image(named, settings);
  if (top.has_error()) co_return top.error();
  auto layers = co_await open_layers(host, std::move(*top), settings);
  if (layers.has_error()) co_return layers.error();
  named_disks opened;
  const std::string name = image_disk_name.value_or(named);
  opened.disks.push_back(make_disk(host, std::move(*layers), name, !settings.writable));
  co_return opened;
}

task<outcome<void>> close_disks(std::vector<std::unique_ptr<disk>>& disks) {
  outcome<void> first;
  for (const auto& each : disks) {
    const outcome<void> closed = co_await close_disk(*each);
    if (first.has_value() && closed.has_error()) first = closed;
  }
  disks.clear();
  co_return first;
}

}  // namespace weir::cli
