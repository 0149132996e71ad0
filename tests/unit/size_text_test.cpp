#include "engine/base/size_text.hpp"

#include "engine/base/range.hpp"

#include <gtest/gtest.h>

namespace weir {
namespace {

TEST(parse_size, takes_plain_bytes_and_binary_suffixes) {
  EXPECT_EQ(parse_size("0"), 0U);
  EXPECT_EQ(parse_size("4097"), 4097U);
  EXPECT_EQ(parse_size("64K"), 64 * KiB);
  EXPECT_EQ(parse_size("2m"), 2 * MiB);
  EXPECT_EQ(parse_size("3G"), 3 * GiB);
  EXPECT_EQ(parse_size("1T"), TiB);
  EXPECT_EQ(parse_size("18446744073709551615"), ~std::uint64_t{0});
}

TEST(parse_size, refuses_everything_else) {
  for (const char* text : {"", "K", "-1", "+1", " 1", "1 ", "1.5G", "1KiB", "1KK", "1X", "0x10",
                           "18446744073709551616", "16777216T"}) {
    EXPECT_EQ(parse_size(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace weir
