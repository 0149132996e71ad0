#include "engine/storage/block_cache.hpp"

namespace weir {

std::span<const std::byte> block_cache::find(std::uint64_t index) {
  const auto found = by_index_.find(index);
  if (found == by_index_.end()) return {};
  blocks_.splice(blocks_.begin(), blocks_, found->second);
  return blocks_.front().content;
}

void block_cache::put(std::uint64_t index, std::span<const std::byte> content) {
  if (const auto found = by_index_.find(index); found != by_index_.end()) {
    found->second->content.assign(content.begin(), content.end());
    blocks_.splice(blocks_.begin(), blocks_, found->second);
    return;
  }
  if (blocks_.size() < most_blocks_) {
    blocks_.push_front({index, {content.begin(), content.end()}});
  } else {
    // The oldest one's memory serves again.
    by_index_.erase(blocks_.back().index);
    blocks_.splice(blocks_.begin(), blocks_, std::prev(blocks_.end()));
    blocks_.front().index = index;
    blocks_.front().content.assign(content.begin(), content.end());
  }
  by_index_.emplace(index, blocks_.begin());
}

}  // namespace weir
