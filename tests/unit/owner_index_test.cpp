// The owner index alone, against a list of runs that is the truth.
#include "engine/block/owner_index.hpp"

#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <iterator>
#include <random>
#include <vector>

namespace weir {
namespace {

using owned = owner_index::owned;

constexpr std::uint64_t disk_bytes = 3 * owner_index::region_bytes;
constexpr std::uint64_t sector = 512;

owned piece_of(const owned& whole, byte_range guest) {
  owned piece = whole;
  if (whole.kind == extent_kind::data) piece.host_offset += guest.offset - whole.guest.offset;
  piece.guest = guest;
  return piece;
}

class truth {
 public:
  explicit truth(std::uint64_t seed) : random_(seed) {
    static constexpr extent_kind kinds[] = {extent_kind::data, extent_kind::data, extent_kind::zero,
                                            extent_kind::encoded};
    for (std::uint64_t at = 0; at < disk_bytes;) {
      const std::uint64_t longest = (random_() % 4 == 0 ? disk_bytes / 2 : 16 * sector) / sector;
      const std::uint64_t length = std::min(disk_bytes - at, sector * (1 + random_() % longest));
      owned run{.guest = {at, length},
                .depth = static_cast<std::uint32_t>(random_() % 5),
                .kind = kinds[random_() % std::size(kinds)],
                .storage_index = static_cast<std::uint8_t>(random_() % 2)};
      // Often where the one before would go on.
      if (run.kind == extent_kind::data)
        run.host_offset = random_() % 2 == 0 ? at : random_() % 1000 * sector;
      runs_.push_back(run);
      at += length;
    }
  }

  const owned& at(std::uint64_t offset) const {
    const auto behind =
        std::ranges::upper_bound(runs_, offset, {}, [](const owned& run) { return run.guest.offset; });
    return *std::prev(behind);
  }
  std::uint64_t draw(std::uint64_t below) { return random_() % below; }

  /// What somebody could have found out at `offset`: part of a run.
  owned answer(std::uint64_t offset) {
    const owned& run = at(offset);
    byte_range guest = range_between(offset, run.guest.end());
    guest.length = 1 + draw(guest.length);
    return piece_of(run, guest);
  }

 private:
  std::mt19937_64 random_;
  std::vector<owned> runs_;
};

/// Nothing known may be wrong, however many runs it joins.
void expect_true(const owned& known, const truth& facts) {
  for (std::uint64_t at = known.guest.offset; at < known.guest.end();) {
    const owned& run = facts.at(at);
    const byte_range guest = range_between(at, std::min(run.guest.end(), known.guest.end()));
    const owned expected = piece_of(run, guest);
    const owned found = piece_of(known, guest);
    ASSERT_EQ(found.depth, expected.depth) << at;
    ASSERT_EQ(found.kind, expected.kind) << at;
    if (found.kind == extent_kind::data) {
      ASSERT_EQ(found.host_offset, expected.host_offset) << at;
      ASSERT_EQ(found.storage_index, expected.storage_index) << at;
    }
    at = guest.end();
  }
}

void learn_and_find(std::uint64_t seed) {
  truth facts(seed);
  const bool roomy = seed % 2 == 0;
  owner_index index(roomy ? owner_index::default_limit_bytes : 4096);
  for (unsigned step = 0; step < 3000; ++step) {
    const std::uint64_t offset = facts.draw(disk_bytes);
    const auto known = index.find(offset);
    if (known) ASSERT_EQ(known->guest.offset, offset);
    if (known) ASSERT_NO_FATAL_FAILURE(expect_true(*known, facts));
    const owned answer = facts.answer(offset);
    index.learn(answer);
    const auto learnt = index.find(offset);
    ASSERT_TRUE(learnt || !roomy) << "at " << offset;
    if (!learnt) continue;
    const std::uint64_t in_region = owner_index::region_of(offset).end() - offset;
    ASSERT_GE(learnt->guest.length, std::min(answer.guest.length, in_region));
    if (facts.draw(500) == 0) index.clear();
  }
}

TEST(owner_index, knows_what_it_learnt_and_nothing_else) {
  for (const std::uint64_t seed : test::seeds(60)) {
    SCOPED_TRACE("WEIR_SEED=" + std::to_string(seed));
    ASSERT_NO_FATAL_FAILURE(learn_and_find(seed));
  }
}

TEST(owner_index, neighbours_that_go_on_are_one_run) {
  owner_index index;
  const auto learn = [&](std::uint64_t offset, std::uint64_t length) {
    index.learn(
        {.guest = {offset, length}, .depth = 3, .kind = extent_kind::data, .host_offset = MiB + offset});
  };
  learn(0, 4096);
  learn(8192, 4096);
  EXPECT_EQ(index.find(0)->guest.length, 4096U);
  EXPECT_FALSE(index.find(4096));
  learn(4096, 4096);
  EXPECT_EQ(index.find(0)->guest.length, 12288U);
  EXPECT_EQ(index.find(9000)->host_offset, MiB + 9000);
}

TEST(owner_index, memory_is_bounded_and_the_region_unused_for_longest_goes) {
  constexpr std::size_t limit = 64 * KiB;
  owner_index index(limit);
  for (std::uint64_t region = 0; region < 10'000; ++region) {
    for (std::uint64_t at = 0; at < 8; ++at) {
      const std::uint64_t offset = region * owner_index::region_bytes + at * 64 * KiB;
      index.learn({.guest = {offset, 64 * KiB}, .depth = static_cast<std::uint32_t>(at % 2)});
    }
    ASSERT_LE(index.size_bytes(), limit);
    ASSERT_TRUE(index.find(0)) << "used all the time";
  }
  EXPECT_FALSE(index.find(owner_index::region_bytes));
  EXPECT_TRUE(index.find(9'999 * owner_index::region_bytes));
}

}  // namespace
}  // namespace weir
