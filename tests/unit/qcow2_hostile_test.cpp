// Damaged and hostile tables of an open image: an error for the range concerned, the rest readable, and never
// a write through a pointer into metadata.
#include "engine/base/endian.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <vector>

namespace weir::test {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t cluster = 4096;
constexpr std::uint64_t table_span = cluster / 8 * cluster;
constexpr std::uint64_t copied = std::uint64_t{1} << 63;

class qcow2_hostile : public testing::Test {
 protected:
  qcow2_hostile() {
    image_create_options options;
    options.virtual_size = 3 * table_span;
    options.options["cluster_size"] = "4096";
    simulated_storage into(disk_);
    EXPECT_TRUE(run(io_, qcow2_driver().create(into, options)).has_value());
    auto opened = open(true);
    image_driver driver(*opened);
    const bytes data(10 * cluster, std::byte{0x5a});
    EXPECT_TRUE(run(io_, driver.write(0, data)).has_value());
    EXPECT_TRUE(run(io_, driver.write(table_span, data)).has_value());
    EXPECT_TRUE(run(io_, opened->close()).has_value());
    disk_.settle_all();
  }

  std::unique_ptr<image> open(bool writable) {
    auto opened = try_open(writable);
    EXPECT_TRUE(opened.has_value()) << (opened ? "" : opened.error().what);
    return opened ? std::move(*opened) : nullptr;
  }
  outcome<std::unique_ptr<image>> try_open(bool writable) {
    return run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(disk_), {.writable = writable}));
  }

  std::uint64_t number(std::uint64_t at) const {
    bytes raw(8);
    disk_.visible().read(at, raw);
    return load_big<std::uint64_t>(raw.data());
  }
  void put(std::uint64_t at, std::uint64_t value) {
    bytes raw(8);
    store_big(raw.data(), value);
    disk_.load(at, raw);
  }
  std::uint64_t l1() const { return number(40); }
  std::uint64_t refcount_table() const { return number(48); }
  std::uint64_t l2(std::uint64_t index) const { return number(l1() + index * 8) & ~copied; }
  bytes content() const {
    bytes all(static_cast<std::size_t>(disk_.size()));
    disk_.visible().read(0, all);
    return all;
  }

  /// Only the corrupt bit has been set, durably; clears it again.
  void expect_marked(bytes before) {
    EXPECT_EQ(disk_.unsynced_count(), 0U);
    EXPECT_EQ(number(72) & 2, 2U);
    const auto refused = try_open(true);
    ASSERT_FALSE(refused.has_value());
    EXPECT_TRUE(refused.error().what.contains("weir check -r all")) << refused.error().what;
    bytes now = content();
    now[79] = before[79];
    EXPECT_TRUE(now == before) << "something else was written";
    put(72, number(72) & ~std::uint64_t{2});
  }

  /// Guest cluster 0 answers corrupt_image to everything; its neighbours are well. A writer marks the image and
  /// changes nothing from then on, not even in place.
  void expect_only_cluster_0_lost(std::uint64_t entry) {
    const std::uint64_t sound = number(l2(0));
    put(l2(0), entry);
    const bytes before = content();
    for (const bool writable : {false, true}) {
      const auto opened = open(writable);
      ASSERT_NE(opened, nullptr);
      image_driver driver(*opened);
      bytes data(cluster);
      const error_code corrupt = errc::corrupt_image;
      EXPECT_EQ(run(io_, driver.read(0, data)).error(), corrupt);
      EXPECT_TRUE(run(io_, driver.read(cluster, data)).has_value());
      EXPECT_EQ(data, bytes(cluster, std::byte{0x5a}));
      if (writable) {
        EXPECT_EQ(run(io_, driver.write(0, data)).error(), corrupt);
        EXPECT_EQ(run(io_, opened->allocate({0, cluster})).error(), corrupt);
        EXPECT_EQ(run(io_, opened->zero({0, cluster}, zero_mode::may_punch)).error(), corrupt);
        EXPECT_EQ(run(io_, opened->zero({0, cluster}, zero_mode::keep_allocated)).error(), corrupt);
        EXPECT_EQ(run(io_, opened->discard({0, 2 * cluster})).error(), corrupt);
        EXPECT_EQ(run(io_, driver.write(cluster, data)).error(), corrupt) << "in place";
      }
      EXPECT_TRUE(run(io_, opened->close()).has_value());
      if (!writable) EXPECT_TRUE(content() == before) << "something was written";
    }
    expect_marked(before);
    put(l2(0), sound);
  }

  boost::asio::io_context io_;
  simulated_disk disk_;
};

TEST_F(qcow2_hostile, entries_that_point_into_metadata_or_nowhere) {
  const std::uint64_t block = number(refcount_table());
  const std::uint64_t past_end = align_up(disk_.size(), cluster) + 16 * cluster;
  for (const std::uint64_t entry :
       {copied, copied | l1(), copied | refcount_table(), copied | l2(0), l2(1), copied | past_end,
        copied | (std::uint64_t{1} << 55), copied | (l2(0) + 512), copied | 0x1000 | 0x2, copied | 1}) {
    SCOPED_TRACE(entry);
    expect_only_cluster_0_lost(entry);
  }
  // Only a writer knows where the refcount blocks are; reading one as data harms nobody.
  put(l2(0), copied | block);
  const auto opened = open(true);
  image_driver driver(*opened);
  const bytes data(cluster, std::byte{1});
  EXPECT_EQ(run(io_, driver.write(0, data)).error(), error_code(errc::corrupt_image));
  EXPECT_TRUE(run(io_, opened->close()).has_value());
}

TEST_F(qcow2_hostile, l1_entries_that_point_nowhere_valid) {
  const std::uint64_t sound = number(l1());
  for (const std::uint64_t entry : {copied | l1(), copied | refcount_table(),
                                    copied | (std::uint64_t{1} << 50), sound + 512, sound | 1, copied}) {
    SCOPED_TRACE(entry);
    put(l1(), entry);
    const bytes before = content();
    const auto opened = open(true);
    ASSERT_NE(opened, nullptr);
    image_driver driver(*opened);
    bytes data(cluster);
    const error_code corrupt = errc::corrupt_image;
    EXPECT_EQ(run(io_, driver.read(0, data)).error(), corrupt);
    EXPECT_EQ(run(io_, driver.write(0, data)).error(), corrupt);
    EXPECT_EQ(run(io_, opened->zero({0, cluster}, zero_mode::may_punch)).error(), corrupt);
    EXPECT_TRUE(run(io_, driver.read(table_span, data)).has_value());
    EXPECT_TRUE(run(io_, opened->close()).has_value());
    expect_marked(before);
  }
}

TEST_F(qcow2_hostile, shared_l2_tables_are_not_written) {
  put(l1() + 8, number(l1()));
  EXPECT_FALSE(try_open(true).has_value());
  EXPECT_EQ(disk_.unsynced_count(), 0U);
  const auto opened = open(false);
  ASSERT_NE(opened, nullptr);
  EXPECT_TRUE(run(io_, opened->close()).has_value());
}

TEST_F(qcow2_hostile, refcount_damage_stops_writers_not_readers) {
  for (const std::uint64_t entry : {l1(), std::uint64_t{1} << 50, number(refcount_table()) + 512, l2(0)}) {
    const std::uint64_t sound = number(refcount_table());
    put(refcount_table(), entry);
    const auto refused = try_open(true);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code, error_code(errc::corrupt_image));
    EXPECT_EQ(disk_.unsynced_count(), 0U);
    const auto opened = open(false);
    ASSERT_NE(opened, nullptr);
    image_driver driver(*opened);
    bytes data(cluster);
    EXPECT_TRUE(run(io_, driver.read(0, data)).has_value());
    EXPECT_TRUE(run(io_, opened->close()).has_value());
    put(refcount_table(), sound);
  }
}

TEST_F(qcow2_hostile, counts_that_call_metadata_free_are_not_believed) {
  const bytes zeros(cluster);
  disk_.load(number(refcount_table()), zeros);
  const bytes before = content();
  const auto opened = open(true);
  ASSERT_NE(opened, nullptr);
  image_driver driver(*opened);
  const bytes data(3 * cluster, std::byte{0x77});
  EXPECT_EQ(run(io_, driver.write(2 * table_span, data)).error(), error_code(errc::corrupt_image));
  EXPECT_EQ(run(io_, driver.write(20 * cluster, data)).error(), error_code(errc::corrupt_image));
  EXPECT_TRUE(run(io_, opened->close()).has_value());
  bytes after = content();
  EXPECT_EQ(after[79], std::byte{2}) << "the corrupt bit is set";
  after[79] = before[79];
  EXPECT_TRUE(after == before);
  EXPECT_FALSE(try_open(true).has_value());
  EXPECT_NE(open(false), nullptr);
}

TEST_F(qcow2_hostile, a_refused_image_is_not_touched) {
  const std::uint64_t features = number(72);
  put(72, features | 2);
  const auto refused = try_open(true);
  ASSERT_FALSE(refused.has_value());
  EXPECT_TRUE(refused.error().what.contains("corrupt"));
  EXPECT_EQ(disk_.unsynced_count(), 0U);
}

TEST_F(qcow2_hostile, unknown_autoclear_bits_are_cleared_by_writers_only) {
  put(88, 0xf0);
  const auto reader = open(false);
  EXPECT_TRUE(run(io_, reader->close()).has_value());
  EXPECT_EQ(number(88), 0xf0U);
  const auto writer = open(true);
  EXPECT_TRUE(run(io_, writer->close()).has_value());
  EXPECT_EQ(number(88), 0U);
}

TEST_F(qcow2_hostile, random_damage_neither_crashes_nor_hangs) {
  const bytes good = content();
  std::mt19937_64 random(11);
  for (int round = 0; round < 400; ++round) {
    bytes damaged = good;
    for (std::uint64_t count = 1 + random() % 20; count > 0; --count) {
      // Mostly the metadata: the first clusters and the two L2 tables.
      const std::uint64_t base = random() % 3 == 0 ? l2(random() % 2) : random() % 4 * cluster;
      const std::uint64_t at = base + (random() % 2 == 0 ? random() % 100 : random() % cluster);
      damaged[static_cast<std::size_t>(at)] =
          static_cast<std::byte>(random() % 3 == 0 ? random() : 1U << random() % 8);
    }
    simulated_disk disk;
    disk.load(0, damaged);
    for (const bool writable : {false, true}) {
      auto opened =
          run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(disk), {.writable = writable}));
      if (!opened) continue;
      image_driver driver(**opened);
      const std::uint64_t size = std::min<std::uint64_t>((*opened)->virtual_size(), 3 * table_span);
      bytes data(3 * cluster, std::byte{0x33});
      for (std::uint64_t at = 0; at + data.size() <= size; at += 37 * cluster) {
        static_cast<void>(run(io_, driver.read(at, data)));
        if (writable) static_cast<void>(run(io_, driver.write(at, data)));
        if (writable) static_cast<void>(run(io_, driver.discard({at, 2 * cluster})));
      }
      static_cast<void>(run(io_, (*opened)->flush()));
      static_cast<void>(run(io_, (*opened)->close()));
    }
  }
}

}  // namespace
}  // namespace weir::test
