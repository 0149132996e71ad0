#include "engine/base/dirty_bitmap.hpp"

#include <gtest/gtest.h>

#include <random>

namespace weir {
namespace {

TEST(dirty_bitmap, set_widens_and_clear_narrows_to_granules) {
  dirty_bitmap bitmap(1000, 64);
  bitmap.set({70, 1});
  EXPECT_TRUE(bitmap.is_set(64));
  EXPECT_TRUE(bitmap.is_set(127));
  EXPECT_FALSE(bitmap.is_set(128));
  bitmap.clear({64, 63});
  EXPECT_TRUE(bitmap.is_set(64));
  bitmap.clear({64, 64});
  EXPECT_EQ(bitmap.dirty_bytes(), 0U);
}

TEST(dirty_bitmap, last_partial_granule_counts_as_whole) {
  dirty_bitmap bitmap(1000, 64);
  bitmap.set({999, 1});
  EXPECT_EQ(bitmap.next_set(0, 4096), (byte_range{960, 40}));
  bitmap.clear({960, 40});
  EXPECT_FALSE(bitmap.next_set(0, 4096));
}

TEST(dirty_bitmap, agrees_with_a_plain_array) {
  constexpr std::uint64_t size = 3000;
  constexpr std::uint64_t granularity = 8;
  dirty_bitmap bitmap(size, granularity);
  std::vector<bool> oracle(size / granularity);
  std::mt19937 random(7);
  for (int step = 0; step < 2000; ++step) {
    const std::uint64_t offset = random() % size;
    const std::uint64_t length = random() % (size - offset + 1);
    const bool set = random() % 2 == 0;
    set ? bitmap.set({offset, length}) : bitmap.clear({offset, length});
    for (std::uint64_t bit = 0; bit < oracle.size(); ++bit) {
      const byte_range granule{bit * granularity, granularity};
      if (set && granule.overlaps({offset, length})) oracle[bit] = true;
      if (!set && byte_range{offset, length}.contains(granule)) oracle[bit] = false;
    }
    std::uint64_t count = 0;
    for (std::uint64_t bit = 0; bit < oracle.size(); ++bit) {
      ASSERT_EQ(bitmap.is_set(bit * granularity), oracle[bit]) << "step " << step << " bit " << bit;
      count += oracle[bit] ? 1 : 0;
    }
    ASSERT_EQ(bitmap.dirty_bytes(), count * granularity);
  }
}

TEST(dirty_bitmap, gives_and_takes_its_bits_as_bytes) {
  dirty_bitmap from(100 * 512, 512);
  from.set({0, 512});
  from.set({9 * 512, 512});
  from.set({70 * 512, 30 * 512});
  std::vector<std::byte> bytes(24, std::byte{0xff});
  from.copy_bits(0, bytes);
  EXPECT_EQ(bytes[0], std::byte{1});
  EXPECT_EQ(bytes[1], std::byte{2});
  EXPECT_EQ(bytes[12], std::byte{0x0f});
  EXPECT_EQ(bytes[23], std::byte{0});
  dirty_bitmap into(100 * 512, 512);
  into.set({0, 100 * 512});
  bytes[13] = std::byte{0xff};
  into.assign_bits(0, bytes);
  EXPECT_EQ(into.dirty_bytes(), from.dirty_bytes());
  for (std::uint64_t at = 0; at < 100 * 512; at += 512) EXPECT_EQ(into.is_set(at), from.is_set(at)) << at;
  const std::vector<std::byte> ones(8, std::byte{0xff});
  into.assign_bits(64, ones);
  EXPECT_EQ(into.dirty_bytes(), (2 + 36) * 512U);
}

TEST(dirty_bitmap, keeps_its_bits_when_the_disk_gets_another_size) {
  for (const std::uint64_t size : {std::uint64_t{1000}, 64 * KiB, 64 * KiB + 1, 1 * MiB}) {
    dirty_bitmap bits(64 * KiB, 512);
    bits.set({0, 64 * KiB});
    bits.clear({1024, 512});
    bits.resize(size);
    dirty_bitmap wanted(size, 512);
    wanted.set({0, std::min(size, 64 * KiB)});
    wanted.clear({1024, 512});
    EXPECT_EQ(bits.size(), size);
    EXPECT_EQ(bits.dirty_bytes(), wanted.dirty_bytes());
    for (std::uint64_t at = 0; at < size + 1024; at += 512)
      EXPECT_EQ(bits.is_set(at), wanted.is_set(at)) << at;
    bits.resize(2 * MiB);
    EXPECT_EQ(bits.dirty_bytes(), wanted.dirty_bytes());
  }
}

}  // namespace
}  // namespace weir
