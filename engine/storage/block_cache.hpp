// What was read of a remote storage, in blocks of one size, the least recently used ones forgotten first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

namespace weir {

class block_cache {
 public:
  explicit block_cache(std::size_t most_blocks) : most_blocks_(most_blocks) {}

  /// The block's bytes, valid until the next put(); empty if it is not here.
  std::span<const std::byte> find(std::uint64_t index);
  bool contains(std::uint64_t index) const noexcept { return by_index_.contains(index); }
  void put(std::uint64_t index, std::span<const std::byte> content);

  std::size_t block_count() const noexcept { return by_index_.size(); }

 private:
  struct block {
    std::uint64_t index;
    std::vector<std::byte> content;
  };

  std::size_t most_blocks_;
  std::list<block> blocks_;  // most recently used first
  std::unordered_map<std::uint64_t, std::list<block>::iterator> by_index_;
};

}  // namespace weir
