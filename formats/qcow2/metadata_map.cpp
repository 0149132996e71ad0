#include "formats/qcow2/metadata_map.hpp"

#include <algorithm>

namespace weir::qcow2 {

cluster_set::cluster_set(std::vector<std::uint64_t> offsets) : offsets_(std::move(offsets)) {
  std::ranges::sort(offsets_);
  const auto repeated = std::ranges::unique(offsets_);
  has_duplicates_ = !repeated.empty();
  offsets_.erase(repeated.begin(), repeated.end());
}

void cluster_set::insert(std::uint64_t offset) {
  const auto at = std::ranges::lower_bound(offsets_, offset);
  if (at == offsets_.end() || *at != offset) offsets_.insert(at, offset);
}

void cluster_set::erase(std::uint64_t offset) {
  const auto at = std::ranges::lower_bound(offsets_, offset);
  if (at != offsets_.end() && *at == offset) offsets_.erase(at);
}

void cluster_set::erase(std::vector<std::uint64_t> offsets) {
  std::ranges::sort(offsets);
  std::erase_if(offsets_, [&](std::uint64_t member) { return std::ranges::binary_search(offsets, member); });
}

bool cluster_set::contains(std::uint64_t offset) const noexcept {
  return std::ranges::binary_search(offsets_, offset);
}

std::optional<std::uint64_t> cluster_set::first_in(std::uint64_t from, std::uint64_t end) const noexcept {
  const auto at = std::ranges::lower_bound(offsets_, from);
  if (at == offsets_.end() || *at >= end) return std::nullopt;
  return *at;
}

std::uint64_t metadata_map::clear_prefix(byte_range range) const noexcept {
  std::uint64_t end = range.end();
  for (const byte_range fixed : {header, l1, refcount_table, snapshots}) {
    if (!fixed.empty() && fixed.overlaps(range)) end = std::min(end, std::max(fixed.offset, range.offset));
  }
  for (const cluster_set* each : {&l2_tables, &refcount_blocks}) {
    if (const auto hit = each->first_in(range.offset, end)) end = *hit;
  }
  return end - range.offset;
}

bool metadata_map::hits_other_than_l2(byte_range range) const noexcept {
  for (const byte_range fixed : {header, l1, refcount_table, snapshots}) {
    if (!fixed.empty() && fixed.overlaps(range)) return true;
  }
  return refcount_blocks.first_in(range.offset, range.end()).has_value();
}

}  // namespace weir::qcow2
