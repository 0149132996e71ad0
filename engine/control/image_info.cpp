#include "engine/control/image_info.hpp"

#include "engine/block/bitmap_store.hpp"
#include "engine/block/cluster_bytes.hpp"
#include "engine/block/snapshot_store.hpp"

#include <sys/stat.h>

#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

constexpr std::string_view cluster_size_key = "cluster-size";

/// Space taken by the image's files; none where a storage has no descriptor to ask.
std::optional<std::uint64_t> allocated_bytes(const layer& described) {
  const layer_source& source = described.model.source;
  struct stat found{};
  const auto descriptor = described.image->storage_at(0).descriptor();
  const bool known = descriptor ? ::fstat(*descriptor, &found) == 0
                                : source.type == "file" && ::stat(source.path.c_str(), &found) == 0;
  if (!known) return std::nullopt;
  return static_cast<std::uint64_t>(found.st_blocks) * 512;
}

/// Bitmaps in the order of their directory; an inconsistent one is one that was left in use.
json::array bitmap_list(const bitmap_store& store) {
  json::array made;
  for (const kept_bitmap& each : store.bitmaps()) {
    json::array flags;
    if (each.in_use || each.inconsistent) flags.emplace_back("in-use");
    if (each.enabled) flags.emplace_back("auto");
    made.push_back({{"flags", std::move(flags)}, {"name", each.name}, {"granularity", each.granularity}});
  }
  return made;
}

json::object format_specific(image& described) {
  json::object data;
  for (const image_fact& fact : described.facts()) {
    if (fact.key == cluster_size_key) continue;
    std::visit([&](const auto& value) { data[fact.key] = value; }, fact.value);
  }
  const bitmap_store* bitmaps = described.bitmaps();
  if (bitmaps != nullptr && !bitmaps->bitmaps().empty()) data["bitmaps"] = bitmap_list(*bitmaps);
  return {{"type", described.format()}, {"data", std::move(data)}};
}

/// Formats that can be dirty tell it as a fact.
bool is_dirty(const image& described) {
  for (const image_fact& fact : described.facts()) {
    if (fact.key == "dirty-flag") return std::get<bool>(fact.value);
  }
  return false;
}

}  // namespace

json::object image_info(const layer& described, const layer* below) {
  image& opened = *described.image;
  json::object info{{"virtual-size", opened.virtual_size()},
                    {"filename", describe(described.model.source)},
                    {"format", opened.format()}};
  if (opened.grain() > 1) info[cluster_size_key] = cluster_bytes(opened);
  if (const auto allocated = allocated_bytes(described)) info["actual-size"] = *allocated;
  json::array snapshots = snapshot_list(opened);
  if (!snapshots.empty()) info["snapshots"] = std::move(snapshots);
  if (opened.format() != "raw") info["format-specific"] = format_specific(opened);
  if (const auto& backing = opened.backing()) {
    if (below != nullptr) info["full-backing-filename"] = describe(below->model.source);
    info["backing-filename"] = backing->name;
    if (!backing->format.empty()) info["backing-filename-format"] = backing->format;
  }
  info["dirty-flag"] = is_dirty(opened);
  return info;
}

json::array snapshot_list(image& described) {
  constexpr std::uint64_t ns_per_s = 1'000'000'000;
  json::array made;
  const snapshot_store* snapshots = described.snapshots();
  if (snapshots == nullptr) return made;
  for (const snapshot_info& each : snapshots->list()) {
    json::object shown{{"id", each.id},
                       {"name", each.name},
                       {"vm-state-size", each.vm_state_bytes},
                       {"date-sec", each.date_s},
                       {"date-nsec", each.date_ns},
                       {"vm-clock-sec", each.vm_clock_ns / ns_per_s},
                       {"vm-clock-nsec", each.vm_clock_ns % ns_per_s}};
    if (each.icount) shown["icount"] = *each.icount;
    made.push_back(std::move(shown));
  }
  return made;
}

json::object nested_image_info(const chain& layers, std::size_t depth) {
  json::object nested;
  for (std::size_t at = layers.depth(); at-- > depth;) {
    const layer* below = at + 1 < layers.depth() ? layers.at(at + 1).get() : nullptr;
    json::object info = image_info(*layers.at(at), below);
    if (below != nullptr) info["backing-image"] = std::move(nested);
    nested = std::move(info);
  }
  return nested;
}

}  // namespace weir
