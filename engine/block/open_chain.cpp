#include "engine/block/open_chain.hpp"

#include "engine/block/backing_name.hpp"
#include "engine/storage/slice_storage.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <string>
#include <utility>

namespace weir {
namespace {

using opened_storage = outcome<std::unique_ptr<storage>>;

/// A layer to open and what is known of it.
struct candidate {
  layer_model model;
  bool from_header = false;
  bool may_probe = false;  ///< the overlay states raw explicitly: whatever is found is safe
};

/// How much of its metadata a layer may keep cached. The sum over a chain of hundreds stays bounded: what deep layers
/// answered is remembered by the chain's owner index, so they are seldom asked again.
std::size_t cache_share(std::size_t depth) noexcept {
  constexpr std::size_t near_layers = 4;
  if (depth == 0) return 32 * MiB;
  return depth <= near_layers ? 16 * MiB : 512 * KiB;
}

std::string_view own_name(const disk_model& disk) noexcept {
  return disk.target.empty() ? std::string_view("the disk") : std::string_view(disk.target);
}

/// What must be refused before anything is opened, if the disk is opened for writing.
std::optional<failure> refuse_for_writing(const disk_model& disk) {
  if (disk.transient) {
    return make_failure(errc::unsupported_feature, own_name(disk), "transient disks are not supported");
  }
  if (disk.shareable) {
    return make_failure(errc::unsupported_feature, own_name(disk),
                        "shareable disks are only opened read-only");
  }
  return std::nullopt;
}

/// Sources that must not be opened, whoever opens them: what weir does not know, and what it must not ignore.
std::optional<failure> refuse_source(const layer_model& layer) {
  const layer_source& source = layer.source;
  const std::string location = describe(source);
  if (!source.unsupported.empty()) {
    return make_failure(errc::unsupported_feature, location, source.unsupported + " is not supported");
  }
  if (source.type == "network") {
    if (source.protocol == "nbd" || source.protocol == "http" || source.protocol == "https")
      return std::nullopt;
    return make_failure(errc::unsupported_feature, location,
                        "protocol " + source.protocol + " is not supported");
  }
  if (source.type == "file" || source.type == "block") return std::nullopt;
  return make_failure(errc::unsupported_feature, location,
                      "storage of type " + source.type + " is not supported");
}

/// Size 0 reaches to the end of the storage.
bool covers(const storage_slice& slice, std::uint64_t offset) noexcept {
  return offset >= slice.offset && (slice.size == 0 || offset - slice.offset < slice.size);
}

bool overlap(const std::optional<storage_slice>& a, const std::optional<storage_slice>& b) noexcept {
  return !a || !b || covers(*a, b->offset) || covers(*b, a->offset);
}

/// Device and inode of a path; nothing if it cannot be looked at.
std::optional<storage::identity_type> identity_of(const std::string& path) {
  struct stat facts{};
  if (stat(path.c_str(), &facts) != 0) return std::nullopt;
  return storage::identity_type{facts.st_dev, facts.st_ino};
}

/// Closes what will not be used; its own errors do not matter any more.
task<void> discard_storage(std::unique_ptr<storage> unwanted) {
  const result<void> ignored = co_await unwanted->close();
  static_cast<void>(ignored);
}

task<void> discard_image(std::unique_ptr<image> unwanted) {
  const result<void> ignored = co_await unwanted->close();
  static_cast<void>(ignored);
}

task<opened_storage> cut_slice(std::unique_ptr<storage> whole, storage_slice slice) {
  const std::uint64_t size = whole->size();
  const std::uint64_t rest = slice.offset < size ? size - slice.offset : 0;
  const byte_range window{slice.offset, slice.size == 0 ? rest : slice.size};
  opened_storage cut = co_await open_slice(std::move(whole), window);
  co_return cut;
}

class chain_opener {
 public:
  chain_opener(const disk_model& disk, const format_table& formats, const storage_opener& opener,
               const open_chain_options& options)
      : disk_(disk), formats_(formats), opener_(opener), options_(options) {}

  task<outcome<void>> run() {
    if (disk_.layers.empty()) co_return make_failure(errc::not_supported, own_name(disk_), "no medium");
    if (std::optional<failure> why = options_.read_only ? std::nullopt : refuse_for_writing(disk_))
      co_return *why;
    for (const layer_model& listed : disk_.layers) {
      candidate next{.model = listed};
      const outcome<void> opened = co_await open_layer(std::move(next));
      if (!opened) co_return opened.error();
    }
    while (!disk_.terminated) {
      outcome<std::optional<candidate>> next = next_from_header();
      if (!next) co_return next.error();
      if (!*next) break;
      const outcome<void> opened = co_await open_layer(std::move(**next));
      if (!opened) co_return opened.error();
    }
    number();
    co_return outcome<void>{};
  }

  std::vector<std::shared_ptr<layer>>& layers() noexcept { return layers_; }

 private:
  struct seen_storage {
    storage::identity_type identity;
    std::optional<storage_slice> slice;
  };

  /// ", backing image of /v/top" for every layer but the active one.
  std::string below() const {
    return layers_.empty() ? std::string() : ", backing image of " + describe(layers_.back()->model.source);
  }

  failure refuse(const layer_model& model, std::string_view why,
                 errc code = errc::unsupported_feature) const {
    return make_failure(code, describe(model.source), std::string(why) + below());
  }

  failure with_place(failure why) const {
    why.what += below();
    return why;
  }

  /// What the last layer's header says comes next; nothing if the chain ends there.
  outcome<std::optional<candidate>> next_from_header() const {
    const layer& overlay = *layers_.back();
    const std::optional<backing_reference>& reference = overlay.image->backing();
    if (!reference || reference->name.empty()) return std::optional<candidate>();
    auto parsed = parse_backing_string(reference->name, overlay.model.source);
    if (!parsed) return with_place(parsed.error());
    candidate next{.model = {}, .from_header = true, .may_probe = reference->may_probe};
    next.model.source = std::move(parsed->source);
    next.model.slice = parsed->slice;
    next.model.format = reference->format.empty() ? parsed->format : reference->format;
    next.model.recorded_name = reference->name;
    if (parsed->incomplete) return refuse(next.model, "credentials inside a backing name are not used");
    if (next.model.source.type == "network" && !options_.allow_remote_backing) {
      return refuse(next.model,
                    "named in an image's header; --allow-remote-backing opens network images named there");
    }
    return std::optional<candidate>(std::move(next));
  }

  /// Whether one more layer may come, from what is known before it is opened.
  std::optional<failure> check(const candidate& next) const {
    if (layers_.size() >= max_layers) {
      return refuse(next.model, "the chain has more than " + std::to_string(max_layers) + " images");
    }
    if (std::optional<failure> why = refuse_source(next.model)) return with_place(*why);
    if (!layers_.empty()) {
      const format_driver* above = formats_.find(layers_.back()->model.format);
      if (above == nullptr || !above->can_have_backing) {
        return refuse(next.model, "a " + layers_.back()->model.format + " image has no backing image");
      }
    }
    return std::nullopt;
  }

  task<outcome<void>> open_layer(candidate next) {
    if (std::optional<failure> why = check(next)) co_return *why;
    const bool writable = layers_.empty() && !options_.read_only;
    auto from = co_await open_storage(next.model, writable);
    if (!from) co_return with_place(from.error());
    const bool unrecorded = next.model.format.empty();
    if (unrecorded) {
      outcome<std::string> format = co_await find_format(**from);
      if (!format) {
        co_await discard_storage(std::move(*from));
        co_return with_place(format.error());
      }
      next.model.format = std::move(*format);
    }
    const bool must_be_leaf = unrecorded && !layers_.empty() && !next.may_probe;
    data_file_request data{next.model, must_be_leaf, false};
    auto opened = co_await open_image(std::move(*from), next.model, writable, data);
    if (!opened) co_return opened.error();
    if (!next.model.data_store.empty() && !data.opened) {
      co_await discard_image(std::move(*opened));
      co_return refuse(next.model, "a data file is described for it, but its header has none");
    }
    if (must_be_leaf && (*opened)->backing()) {
      co_await discard_image(std::move(*opened));
      co_return with_place(refuse_probed(next.model, "a backing image"));
    }
    if (!next.from_header) note_recorded_name(next.model);
    layers_.push_back(std::make_shared<layer>(layer{std::move(next.model), std::move(*opened)}));
    co_return outcome<void>{};
  }

  task<opened_storage> open_storage(layer_model& model, bool writable) {
    opened_storage from = co_await opener_(model.source, writable);
    if (!from) {
      // A layer of this chain may be what holds the lock.
      const bool ours =
          from.error().code == errc::image_in_use && is_seen(identity_of(model.source.path), model.slice);
      if (ours) co_return refuse_loop(model);
      co_return from.error();
    }
    const std::optional<storage::identity_type> identity = (*from)->identity();
    if (is_seen(identity, model.slice)) {
      co_await discard_storage(std::move(*from));
      co_return refuse_loop(model);
    }
    if (identity) seen_.push_back({*identity, model.slice});
    if (!model.slice) co_return from;
    opened_storage cut = co_await cut_slice(std::move(*from), *model.slice);
    co_return cut;
  }

  bool is_seen(const std::optional<storage::identity_type>& identity,
               const std::optional<storage_slice>& slice) const {
    return identity && std::ranges::any_of(seen_, [&](const seen_storage& seen) {
             return seen.identity == *identity && overlap(seen.slice, slice);
           });
  }

  failure refuse_loop(const layer_model& model) const {
    return make_failure(errc::corrupt_image, describe(model.source),
                        "the chain loops: this file is in it already");
  }

  /// The format of a layer that nobody told.
  task<outcome<std::string>> find_format(storage& from) const {
    if (layers_.empty() && !options_.probe_active) co_return std::string("raw");
    std::array<std::byte, probe_bytes> head{};
    const std::size_t length = std::min<std::uint64_t>(head.size(), from.size());
    const std::span<std::byte> part = std::span(head).first(length);
    const result<void> read = co_await from.read(0, part);
    if (!read) co_return make_failure(read.error(), from.location());
    const format_driver* found = formats_.probe(part);
    if (found == nullptr)
      co_return make_failure(errc::unsupported_feature, from.location(), "unknown format");
    co_return std::string(found->name);
  }

  /// What opening one layer's data file needs to know and tells.
  struct data_file_request {
    layer_model& owner;
    bool refused;  ///< the format was probed: only a leaf is accepted
    bool opened;
  };

  /// The data file of a layer: the one described for it or, if there is none, the one its header names.
  task<opened_storage> open_data_file(data_file_request& request, std::string name, bool writable) {
    layer_model& owner = request.owner;
    if (request.refused) co_return refuse_probed(owner, "a data file");
    if (owner.data_store.empty()) {
      outcome<layer_source> named = parse_data_file_name(name, owner.source);
      if (!named) co_return named.error();
      layer_model found;
      found.format = "raw";
      found.source = std::move(*named);
      found.recorded_name = std::move(name);
      owner.data_store.push_back(std::move(found));
    }
    layer_model& data = owner.data_store.front();
    const std::string whose = ", data file of " + describe(owner.source);
    if (!data.format.empty() && data.format != "raw") {
      co_return make_failure(errc::unsupported_feature, describe(data.source),
                             "format " + data.format + " is not supported" + whose);
    }
    if (std::optional<failure> why = refuse_source(data)) {
      why->what += whose;
      co_return std::move(*why);
    }
    opened_storage from = co_await open_storage(data, writable);
    if (!from) {
      failure why = from.error();
      why.what += whose;
      co_return why;
    }
    request.opened = true;
    co_return from;
  }

  task<outcome<std::unique_ptr<image>>> open_image(std::unique_ptr<storage> from, const layer_model& model,
                                                   bool writable, data_file_request& data) {
    const format_driver* driver = formats_.find(model.format);
    if (driver == nullptr || driver->open == nullptr) {
      co_await discard_storage(std::move(from));
      co_return refuse(model, "format " + model.format + " is not supported");
    }
    image_open_options options = options_.image;
    options.metadata_cache_bytes = std::min(options.metadata_cache_bytes, cache_share(layers_.size()));
    if (!layers_.empty()) options.snapshot.clear();
    if (!options.snapshot.empty() && !driver->has_snapshots) {
      co_await discard_storage(std::move(from));
      co_return refuse(model, "a " + model.format + " image has no internal snapshots", errc::not_supported);
    }
    options.writable = writable;
    options.open_data_file = [this, &data](std::string name, bool for_writing) {
      return open_data_file(data, std::move(name), for_writing);
    };
    auto opened = co_await driver->open(std::move(from), options);
    if (!opened) co_return with_place(opened.error());
    co_return opened;
  }

  failure refuse_probed(const layer_model& model, std::string_view what) const {
    const std::string location = describe(model.source);
    const std::string overlay = describe(layers_.back()->model.source);
    return make_failure(errc::unsupported_feature, location,
                        "its format is not recorded, and what looks like " + model.format + " names " +
                            std::string(what) +
                            " of its own, which a guest could have written; if it is right: "
                            "qemu-img rebase -u -F " +
                            model.format + " -b '" + location + "' '" + overlay + "'");
  }

  /// The name by which the overlay's header knows a listed layer, if it does.
  void note_recorded_name(layer_model& model) const {
    if (layers_.empty()) return;
    const std::optional<backing_reference>& reference = layers_.back()->image->backing();
    if (!reference) return;
    const auto parsed = parse_backing_string(reference->name, layers_.back()->model.source);
    if (parsed && describe(parsed->source) == describe(model.source)) model.recorded_name = reference->name;
  }

  void number() {
    disk_model numbered;
    for (const std::shared_ptr<layer>& each : layers_) numbered.layers.push_back(each->model);
    number_layers(numbered, options_.first_index);
    for (std::size_t i = 0; i < layers_.size(); ++i) layers_[i]->model = std::move(numbered.layers[i]);
  }

  const disk_model& disk_;
  const format_table& formats_;
  const storage_opener& opener_;
  const open_chain_options& options_;
  std::vector<std::shared_ptr<layer>> layers_;
  std::vector<seen_storage> seen_;
};

}  // namespace

task<result<void>> close_layers(std::vector<std::shared_ptr<layer>>& layers) {
  result<void> first;
  for (const std::shared_ptr<layer>& each : layers) {
    const result<void> closed = co_await each->image->close();
    if (!closed && first) first = closed;
  }
  layers.clear();
  co_return first;
}

task<outcome<std::vector<std::shared_ptr<layer>>>> open_chain(const disk_model& disk,
                                                              const format_table& formats,
                                                              const storage_opener& opener,
                                                              open_chain_options options) {
  chain_opener opening(disk, formats, opener, options);
  const outcome<void> opened = co_await opening.run();
  if (!opened) {
    const result<void> ignored = co_await close_layers(opening.layers());
    static_cast<void>(ignored);
    co_return std::move(opened).error();
  }
  co_return std::move(opening.layers());
}

disk_model completed_model(disk_model disk, const std::vector<std::shared_ptr<layer>>& layers) {
  disk.layers.clear();
  for (const std::shared_ptr<layer>& each : layers) disk.layers.push_back(each->model);
  disk.terminated = true;
  return disk;
}

}  // namespace weir
