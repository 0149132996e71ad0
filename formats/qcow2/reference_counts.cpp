#include "formats/qcow2/reference_counts.hpp"

#include <cassert>

namespace weir::qcow2 {

std::uint16_t reference_counts::cell(std::uint64_t cluster) const noexcept {
  const std::uint64_t index = cluster / chunk_clusters;
  if (index != recent_index_) {
    const auto found = chunks_.find(index);
    if (found == chunks_.end()) return 0;
    recent_index_ = index;
    recent_ = const_cast<chunk*>(&found->second);
  }
  return (*recent_)[cluster % chunk_clusters];
}

std::uint16_t* reference_counts::make_cell(std::uint64_t cluster) {
  const std::uint64_t index = cluster / chunk_clusters;
  if (index != recent_index_) {
    auto found = chunks_.find(index);
    if (found == chunks_.end()) {
      full_ = full_ || chunks_.size() >= most_chunks;
      if (full_) return nullptr;
      found = chunks_.emplace(index, chunk{}).first;
    }
    recent_index_ = index;
    recent_ = &found->second;
  }
  return &(*recent_)[cluster % chunk_clusters];
}

void reference_counts::set_bit(std::uint64_t cluster, std::uint16_t bit, bool value) {
  if (!value && cell(cluster) == 0) return;
  std::uint16_t* const into = make_cell(cluster);
  if (into == nullptr) return;
  *into = static_cast<std::uint16_t>(value ? *into | bit : *into & ~bit);
}

void reference_counts::set_count(std::uint64_t cluster, std::uint16_t& into, std::uint64_t count) {
  const bool was_many = (into & count_mask) == count_mask;
  const bool is_many = count >= count_mask;
  if (is_many) many_[cluster] = count;
  if (was_many && !is_many) many_.erase(cluster);
  into = static_cast<std::uint16_t>((into & ~count_mask) | (is_many ? count_mask : count));
}

void reference_counts::add(std::uint64_t cluster, std::uint64_t times) {
  std::uint16_t* const into = make_cell(cluster);
  if (into != nullptr) set_count(cluster, *into, count(cluster) + times);
}

void reference_counts::remove(std::uint64_t cluster) {
  assert(count(cluster) > 0);
  set_count(cluster, *make_cell(cluster), count(cluster) - 1);
}

std::uint64_t reference_counts::count(std::uint64_t cluster) const noexcept {
  const std::uint16_t stored = cell(cluster) & count_mask;
  return stored == count_mask ? many_.at(cluster) : stored;
}

std::optional<std::uint64_t> reference_counts::next(std::uint64_t from) const noexcept {
  for (auto at = chunks_.lower_bound(from / chunk_clusters); at != chunks_.end(); ++at) {
    const std::uint64_t base = at->first * chunk_clusters;
    for (std::uint64_t index = from > base ? from - base : 0; index < chunk_clusters; ++index) {
      if ((at->second[index] & count_mask) != 0) return base + index;
    }
  }
  return std::nullopt;
}

}  // namespace weir::qcow2
