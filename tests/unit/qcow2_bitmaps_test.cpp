// Damaged and hostile bitmaps: the data stays readable, and no bitmap that cannot be trusted is used.
#include "tests/support/hostile_qcow2.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace weir::test {
namespace {

const image_open_options recording{.writable = true, .bitmaps = bitmap_care::record};
constexpr std::uint32_t bitmaps_extension = 0x2385'2875;

class qcow2_bitmaps : public hostile_qcow2 {
 protected:
  qcow2_bitmaps() {
    const auto opened = open(recording);
    EXPECT_TRUE(opened->bitmaps()->add("first", 512, true).has_value());
    EXPECT_TRUE(opened->bitmaps()->add("second", 4096, false).has_value());
    change(*opened, 0, 3 * cluster);
    close(*opened);
    for (extension_ = number<std::uint32_t>(100); number<std::uint32_t>(extension_) != bitmaps_extension;) {
      extension_ += 8 + align_up(number<std::uint32_t>(extension_ + 4), 8);
    }
    directory_ = number<std::uint64_t>(extension_ + 24);
    good_ = content();
  }

  void change(image& opened, std::uint64_t offset, std::uint64_t length) {
    EXPECT_TRUE(run(io_, opened.bitmaps()->begin_change()).has_value());
    fill(opened, offset, length, std::byte{7});
    opened.bitmaps()->record({offset, length});
  }
  void restore() { disk_.load(0, good_); }
  std::uint64_t autoclear() const { return number<std::uint64_t>(88); }

  bytes good_;
  std::uint64_t extension_ = 0;
  std::uint64_t directory_ = 0;
};

TEST_F(qcow2_bitmaps, come_back_as_they_were_stored) {
  const auto opened = open({});
  const auto bits = run(io_, opened->bitmaps()->load("first"));
  ASSERT_TRUE(bits.has_value());
  EXPECT_EQ((*bits)->dirty_bytes(), 3 * cluster);
  EXPECT_TRUE((*bits)->is_set(0));
  EXPECT_FALSE((*bits)->is_set(3 * cluster));
  EXPECT_EQ((*run(io_, opened->bitmaps()->load("second")))->dirty_bytes(), 0U);
  close(*opened);
}

TEST_F(qcow2_bitmaps, a_damaged_directory_is_no_bitmap_and_is_withdrawn_by_writers) {
  const std::pair<std::uint64_t, std::uint32_t> damages[] = {
      {extension_ + 8, 0},           {extension_ + 8, 3},      {extension_ + 8, 70000},
      {extension_ + 20, 0x7000},     {extension_ + 12, 1},     {extension_ + 28, 0x0fff'f000},
      {directory_ + 20, 0x7fff'fff}, {directory_ + 16, 0xffff}};
  for (const auto& [at, value] : damages) {
    put(at, value);
    expect_readable({});
    const auto reader = open({});
    EXPECT_TRUE(std::ranges::all_of(reader->bitmaps()->bitmaps(), &kept_bitmap::inconsistent)) << at;
    const bool is_none = reader->bitmaps()->bitmaps().empty();
    close(*reader);
    EXPECT_EQ(autoclear(), 1U);
    const auto writer = open(recording);
    ASSERT_NE(writer, nullptr);
    close(*writer);
    EXPECT_EQ(autoclear(), is_none ? 0U : 1U) << at;
    restore();
  }
}

TEST_F(qcow2_bitmaps, damaged_entries_make_one_bitmap_inconsistent) {
  const std::uint64_t table = number<std::uint64_t>(directory_);
  const std::pair<std::uint64_t, std::uint64_t> damages[] = {{directory_, 0},
                                                             {directory_, table + 512},
                                                             {directory_, std::uint64_t{1} << 50},
                                                             {table, 3},
                                                             {table, cluster | std::uint64_t{1} << 60},
                                                             {table, std::uint64_t{1} << 50}};
  for (const auto& [at, value] : damages) {
    put(at, value);
    const auto opened = open(recording);
    ASSERT_NE(opened, nullptr);
    EXPECT_TRUE(opened->bitmaps()->find("first")->inconsistent) << at;
    EXPECT_FALSE(opened->bitmaps()->find("second")->inconsistent);
    EXPECT_TRUE(opened->bitmaps()->records()) << "the mark has yet to be made";
    change(*opened, cluster, cluster);
    EXPECT_EQ(number<std::uint32_t>(directory_ + 12) & 1, 1U) << "it is not what it should be any more";
    EXPECT_FALSE(opened->bitmaps()->records());
    EXPECT_FALSE(run(io_, opened->bitmaps()->clear("first")).has_value());
    EXPECT_TRUE(opened->bitmaps()->remove("first").has_value());
    close(*opened);
    const auto again = open({});
    EXPECT_EQ(again->bitmaps()->bitmaps().size(), 1U);
    close(*again);
    restore();
  }
}

TEST_F(qcow2_bitmaps, a_damaged_one_stays_marked_when_others_are_stored) {
  put(number<std::uint64_t>(directory_), std::uint64_t{3});
  const auto opened = open(recording);
  EXPECT_TRUE(opened->bitmaps()->add("third", 4096, true).has_value());
  change(*opened, cluster, cluster);
  close(*opened);
  const auto again = open({});
  ASSERT_EQ(again->bitmaps()->bitmaps().size(), 3U);
  EXPECT_TRUE(again->bitmaps()->find("first")->in_use);
  EXPECT_FALSE(again->bitmaps()->find("third")->in_use);
  close(*again);
}

TEST_F(qcow2_bitmaps, openers_that_do_not_record_withdraw_them) {
  const auto opened = open({.writable = true});
  EXPECT_TRUE(opened->bitmaps()->bitmaps().empty());
  close(*opened);
  EXPECT_EQ(autoclear(), 0U);
}

TEST_F(qcow2_bitmaps, unknown_autoclear_bits_go_while_bitmaps_stay) {
  put(88, std::uint64_t{0xf1});
  const auto opened = open(recording);
  close(*opened);
  EXPECT_EQ(autoclear(), 1U);
}

TEST_F(qcow2_bitmaps, are_marked_before_anything_changes_and_only_then) {
  const bytes before = content();
  auto opened = open(recording);
  EXPECT_TRUE(run(io_, opened->bitmaps()->begin_change()).has_value());
  EXPECT_EQ(disk_.unsynced_count(), 0U) << "the mark is durable";
  EXPECT_EQ(number<std::uint32_t>(directory_ + 12), 3U);
  opened.reset();
  const auto reader = open({});
  EXPECT_TRUE(reader->bitmaps()->find("first")->inconsistent);
  EXPECT_FALSE(reader->bitmaps()->find("second")->inconsistent);
  close(*reader);
  restore();
  const auto unused = open(recording);
  close(*unused);
  EXPECT_TRUE(content() == before);
}

// What the storage still has is marked even if it is gone from memory: a crash would bring it back.
TEST_F(qcow2_bitmaps, are_marked_although_removed_or_disabled_since) {
  for (const bool remove : {true, false}) {
    auto opened = open(recording);
    if (remove) {
      EXPECT_TRUE(opened->bitmaps()->remove("first").has_value());
    } else {
      EXPECT_TRUE(run(io_, opened->bitmaps()->set_enabled("first", false)).has_value());
    }
    EXPECT_TRUE(run(io_, opened->bitmaps()->begin_change()).has_value());
    opened.reset();
    EXPECT_EQ(number<std::uint32_t>(directory_ + 12), 3U);
    restore();
  }
}

TEST_F(qcow2_bitmaps, random_damage_neither_crashes_nor_hangs) {
  std::mt19937_64 random(23);
  for (int round = 0; round < 400; ++round) {
    for (int count = 0; count < 3; ++count) {
      const std::uint64_t table = number<std::uint64_t>(directory_) % good_.size();
      const std::uint64_t places[] = {extension_ + random() % 32, directory_ + random() % 80,
                                      table + random() % 16};
      const bytes one(1, static_cast<std::byte>(random()));
      disk_.load(std::min<std::uint64_t>(places[random() % 3], good_.size() - 1), one);
    }
    for (const image_open_options& options : {image_open_options{}, recording}) {
      const auto opened = try_open(options);
      if (!opened) continue;
      for (const kept_bitmap& each : (*opened)->bitmaps()->bitmaps()) {
        static_cast<void>(run(io_, (*opened)->bitmaps()->load(each.name)));
      }
      if (options.writable) change(**opened, 8 * cluster, cluster);
      static_cast<void>(run(io_, (*opened)->close()));
    }
    disk_.settle_all();
    restore();
  }
}

}  // namespace
}  // namespace weir::test
