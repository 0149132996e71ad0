#include "engine/base/range.hpp"

#include <gtest/gtest.h>

namespace weir {
namespace {

constexpr std::uint64_t highest = std::numeric_limits<std::uint64_t>::max();

TEST(range, fits_does_not_overflow) {
  EXPECT_TRUE(fits(0, 0, 0));
  EXPECT_TRUE(fits(10, 5, 15));
  EXPECT_FALSE(fits(10, 6, 15));
  EXPECT_FALSE(fits(16, 0, 15));
  EXPECT_FALSE(fits(10, highest, 15));
  EXPECT_FALSE(fits(highest, highest, highest - 1));
}

TEST(range, intersection_of_disjoint_ranges_is_empty) {
  EXPECT_TRUE(intersection({0, 10}, {10, 10}).empty());
  EXPECT_TRUE(intersection({20, 10}, {0, 5}).empty());
  EXPECT_EQ(intersection({0, 10}, {5, 10}), (byte_range{5, 5}));
}

TEST(range, alignment) {
  EXPECT_EQ(align_outward({5, 6}, 8), (byte_range{0, 16}));
  EXPECT_EQ(align_inward({5, 20}, 8), (byte_range{8, 16}));
  EXPECT_TRUE(align_inward({5, 6}, 8).empty());
  EXPECT_FALSE(checked_align_up(highest, 512));
  EXPECT_EQ(checked_align_up(513, 512), 1024U);
}

}  // namespace
}  // namespace weir
