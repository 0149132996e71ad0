#include "engine/base/zero_scan.hpp"

#include <gtest/gtest.h>

namespace weir {
namespace {

TEST(zero_scan, finds_a_single_byte_anywhere) {
  std::vector<std::byte> buffer(777);
  EXPECT_TRUE(is_all_zero(buffer));
  for (std::byte& byte : buffer) {
    byte = std::byte{1};
    EXPECT_FALSE(is_all_zero(buffer));
    byte = std::byte{0};
  }
}

TEST(zero_scan, runs_are_whole_granules_and_joined) {
  std::vector<std::byte> buffer(1000);
  buffer[5] = buffer[130] = buffer[999] = std::byte{1};
  const std::vector<byte_range> expected{{0, 192}, {960, 40}};
  EXPECT_EQ(non_zero_runs(buffer, 64), (std::vector<byte_range>{{0, 64}, {128, 64}, {960, 40}}));
  buffer[70] = std::byte{1};
  EXPECT_EQ(non_zero_runs(buffer, 64), expected);
}

}  // namespace
}  // namespace weir
