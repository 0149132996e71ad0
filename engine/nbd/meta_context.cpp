#include "engine/nbd/meta_context.hpp"

#include "engine/nbd/protocol.hpp"

#include <algorithm>
#include <array>

namespace weir::nbd {
namespace {

constexpr std::string_view bitmap_prefix = "qemu:dirty-bitmap:";
/// A query that lists several contexts is the beginning of their names up to one of its colons.
constexpr std::array<std::string_view, 3> namespaces{"base:", "qemu:", bitmap_prefix};

std::uint32_t flags_of(meta_context context, const status_run& run) noexcept {
  if (context == meta_context::allocation_depth) return run.depth;
  // Known zero is reported as a hole as well, allocated or not, as qemu-nbd does: clients then skip it.
  return run.zero ? state_hole | state_zero : 0;
}

}  // namespace

std::string name_of(meta_context context, std::span<const std::string> bitmaps) {
  if (context == meta_context::base_allocation) return "base:allocation";
  if (context == meta_context::allocation_depth) return "qemu:allocation-depth";
  return std::string(bitmap_prefix) + bitmaps[bitmap_index_of(context)];
}

meta_context_set every_meta_context(std::size_t bitmap_count) noexcept {
  meta_context_set every;
  every.insert(meta_context::base_allocation);
  every.insert(meta_context::allocation_depth);
  for (std::size_t index = 0; index < bitmap_count; ++index) every.insert(context_of_bitmap(index));
  return every;
}

void select_meta_contexts(std::string_view query, bool wildcards, std::span<const std::string> bitmaps,
                          meta_context_set& into) {
  const bool is_space = wildcards && std::ranges::find(namespaces, query) != namespaces.end();
  for (meta_context_set left = every_meta_context(bitmaps.size()); !left.empty();) {
    const meta_context context = left.take_first();
    const std::string name = name_of(context, bitmaps);
    if (query == name || (is_space && name.starts_with(query))) into.insert(context);
  }
}

std::vector<status_extent> extents_of(meta_context context, std::span<const status_run> runs,
                                      std::size_t most) {
  std::vector<status_extent> extents;
  for (const status_run& run : runs) {
    const std::uint32_t flags = flags_of(context, run);
    if (!extents.empty() && extents.back().flags == flags) {
      extents.back().length += run.length;
    } else if (extents.size() < most) {
      extents.push_back({run.length, flags});
    } else {
      break;
    }
  }
  return extents;
}

std::vector<status_extent> extents_of(const dirty_bitmap& bitmap, byte_range range, std::size_t most) {
  std::vector<status_extent> extents;
  std::uint64_t at = range.offset;
  while (at < range.end()) {
    const std::optional<byte_range> found = bitmap.next_set(at, range.end() - at);
    const std::uint64_t dirty_from = found ? std::clamp(found->offset, at, range.end()) : range.end();
    const bool dirty = dirty_from == at;
    const std::uint64_t end = dirty ? std::min(found->end(), range.end()) : dirty_from;
    const std::uint32_t flags = dirty ? state_dirty : 0;
    if (!extents.empty() && extents.back().flags == flags) {
      extents.back().length += end - at;
    } else if (extents.size() < most) {
      extents.push_back({end - at, flags});
    } else {
      break;
    }
    at = end;
  }
  return extents;
}

}  // namespace weir::nbd
