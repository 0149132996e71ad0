#include "engine/storage/block_cache.hpp"

#include "engine/storage/read_sequences.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace weir {
namespace {

std::vector<std::byte> of(int value, std::size_t length = 4) {
  return std::vector<std::byte>(length, static_cast<std::byte>(value));
}

TEST(block_cache, forgets_what_was_used_longest_ago) {
  block_cache cache(2);
  cache.put(1, of(1));
  cache.put(2, of(2));
  EXPECT_EQ(cache.find(1)[0], std::byte{1});
  cache.put(3, of(3, 2));
  EXPECT_TRUE(cache.contains(1));
  EXPECT_FALSE(cache.contains(2));
  EXPECT_EQ(cache.find(3).size(), 2U);
  EXPECT_TRUE(cache.find(2).empty());
  cache.put(1, of(9));
  EXPECT_EQ(cache.find(1)[0], std::byte{9});
  EXPECT_EQ(cache.block_count(), 2U);
}

TEST(read_sequences, only_readers_in_sequence_are_read_ahead_of) {
  read_sequences readers(100, 350);
  EXPECT_EQ(readers.note({0, 10}), 0U);
  EXPECT_EQ(readers.note({10, 10}), 100U);
  EXPECT_EQ(readers.note({5000, 10}), 0U) << "another reader";
  EXPECT_EQ(readers.note({20, 10}), 200U);
  EXPECT_EQ(readers.note({30, 10}), 350U);
  EXPECT_EQ(readers.note({40, 10}), 350U);
  EXPECT_EQ(readers.note({5010, 10}), 100U) << "it is still known";
  for (std::uint64_t jump = 1; jump <= 8; ++jump) EXPECT_EQ(readers.note({jump * 100'000, 10}), 0U);
  EXPECT_EQ(readers.note({50, 10}), 0U) << "forgotten";
}

TEST(read_sequences, nothing_is_read_ahead_where_that_is_off) {
  read_sequences readers(100, 0);
  for (std::uint64_t at = 0; at < 10; ++at) EXPECT_EQ(readers.note({at * 10, 10}), 0U);
}

}  // namespace
}  // namespace weir
