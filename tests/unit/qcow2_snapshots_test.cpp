// Damaged and hostile snapshot tables: the current state stays readable, nothing is changed through them.
#include "tests/support/hostile_qcow2.hpp"
#include "tests/support/qcow2_checker.hpp"

#include <gtest/gtest.h>

#include <random>

namespace weir::test {
namespace {

class qcow2_snapshots : public hostile_qcow2 {
 protected:
  qcow2_snapshots() {
    const auto opened = open({.writable = true});
    for (const char* name : {"first", "second"}) {
      fill(*opened, 0, 20 * cluster, name[0] == 'f' ? std::byte{1} : std::byte{2});
      snapshot_info wanted;
      wanted.name = name;
      EXPECT_TRUE(run(io_, opened->snapshots()->create(wanted)).has_value());
    }
    close(*opened);
    good_ = content();
    table_ = number<std::uint64_t>(64);
  }

  void restore() { disk_.load(0, good_); }

  bytes good_;
  std::uint64_t table_ = 0;
};

TEST_F(qcow2_snapshots, a_table_that_cannot_be_read_to_its_end_stops_writers_not_readers) {
  for (const std::uint32_t extra : {1025U, 0x7fff'ffffU, 0xffff'fff0U}) {
    put(table_ + 36, extra);
    const auto refused = try_open({.writable = true});
    ASSERT_FALSE(refused.has_value());
    EXPECT_TRUE(refused.error().what.contains("extra data")) << refused.error().what;
    const auto opened = open({});
    ASSERT_NE(opened, nullptr);
    EXPECT_TRUE(opened->snapshots()->list().empty());
    EXPECT_FALSE(opened->snapshots()->damage().empty());
    close(*opened);
    EXPECT_FALSE(try_open({.snapshot = "first"}).has_value());
    expect_readable({});
    EXPECT_EQ(disk_.unsynced_count(), 0U);
    restore();
  }
}

TEST_F(qcow2_snapshots, an_l1_table_shorter_than_its_disk_is_lengthened) {
  put(table_ + 8, std::uint32_t{1});
  const auto opened = open({.writable = true});
  ASSERT_NE(opened, nullptr);
  const outcome<void> applied = run(io_, opened->snapshots()->apply("1"));
  ASSERT_TRUE(applied.has_value()) << applied.error().what;
  EXPECT_EQ(number<std::uint32_t>(36), 2U) << "4 MiB in tables of 2 MiB";
  fill(*opened, disk_bytes - cluster, cluster, std::byte{9});
  close(*opened);
  expect_readable({});
}

TEST_F(qcow2_snapshots, a_snapshot_whose_l1_table_lies_nowhere_harms_only_itself) {
  for (const std::uint64_t offset :
       {std::uint64_t{0}, table_ + 512, std::uint64_t{1} << 50, ~std::uint64_t{0}}) {
    put(table_, offset);
    EXPECT_FALSE(try_open({.snapshot = "first"}).has_value());
    expect_readable({.snapshot = "second"});
    const bytes before = content();
    const auto opened = open({.writable = true});
    ASSERT_NE(opened, nullptr);
    EXPECT_FALSE(run(io_, opened->snapshots()->apply("1")).has_value());
    EXPECT_FALSE(run(io_, opened->snapshots()->remove("1")).has_value());
    close(*opened);
    EXPECT_TRUE(content() == before);
    restore();
  }
}

TEST_F(qcow2_snapshots, damaged_tables_of_a_snapshot_are_neither_applied_nor_removed) {
  const std::uint64_t l1 = number<std::uint64_t>(table_);
  for (const std::uint64_t entry : {l1, number<std::uint64_t>(40), number<std::uint64_t>(48),
                                    std::uint64_t{1} << 50, number<std::uint64_t>(l1) + 512}) {
    put(l1, entry);
    const bytes before = content();
    const auto opened = open({.writable = true});
    ASSERT_NE(opened, nullptr);
    if (entry != l1) {
      const auto refused = run(io_, opened->snapshots()->apply("1"));
      ASSERT_FALSE(refused.has_value()) << entry;
      EXPECT_TRUE(refused.error().what.contains("'first' is damaged")) << refused.error().what;
      EXPECT_FALSE(run(io_, opened->snapshots()->remove("1")).has_value());
      EXPECT_TRUE(content() == before);
    }
    close(*opened);
    restore();
  }
}

TEST_F(qcow2_snapshots, header_level_lies_are_refused) {
  for (const std::uint32_t count : {65537U, 0xffff'ffffU}) {
    put(60, count);
    EXPECT_FALSE(try_open({}).has_value()) << count;
  }
  restore();
  for (const std::uint64_t offset :
       {std::uint64_t{0}, table_ + 8, std::uint64_t{1} << 60, std::uint64_t{1} << 40}) {
    put(64, offset);
    EXPECT_FALSE(try_open({}).has_value()) << offset;
  }
}

TEST_F(qcow2_snapshots, counts_too_narrow_to_share_are_found_before_anything_changes) {
  // 16-bit counts, one of them at its highest.
  const std::uint64_t block = number<std::uint64_t>(number<std::uint64_t>(48));
  const std::uint64_t l2 = number<std::uint64_t>(number<std::uint64_t>(40)) & 0x00ff'ffff'ffff'fe00;
  const std::uint64_t data = number<std::uint64_t>(l2) & 0x00ff'ffff'ffff'fe00;
  put(block + data / cluster * 2, std::uint16_t{0xffff});
  const bytes before = content();
  const auto opened = open({.writable = true});
  snapshot_info wanted;
  wanted.name = "third";
  const auto refused = run(io_, opened->snapshots()->create(wanted));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, errno_code(EOVERFLOW));
  EXPECT_FALSE(run(io_, opened->snapshots()->apply("2")).has_value());
  close(*opened);
  EXPECT_TRUE(content() == before);
}

TEST_F(qcow2_snapshots, random_damage_neither_crashes_nor_hangs) {
  std::mt19937_64 random(17);
  for (int round = 0; round < 300; ++round) {
    for (int change = 0; change < 3; ++change) {
      const std::uint64_t l1 = number<std::uint64_t>(table_) % good_.size();
      const std::uint64_t base = random() % 3 == 0 ? l1 : table_;
      const std::uint64_t at = std::min<std::uint64_t>(base + random() % 160, good_.size() - 1);
      const bytes one(1, static_cast<std::byte>(random()));
      disk_.load(at, one);
    }
    for (const char* snapshot : {"", "1", "second"}) {
      const auto opened = try_open({.snapshot = snapshot});
      if (opened) close(**opened);
    }
    const auto opened = try_open({.writable = true});
    if (opened) {
      snapshot_info wanted;
      wanted.name = "new";
      static_cast<void>(run(io_, (*opened)->snapshots()->apply("1")));
      static_cast<void>(run(io_, (*opened)->snapshots()->create(wanted)));
      static_cast<void>(run(io_, (*opened)->snapshots()->remove("2")));
      static_cast<void>(run(io_, (*opened)->close()));
    }
    disk_.settle_all();
    restore();
  }
}

}  // namespace
}  // namespace weir::test
