// Parsers of the snapshot table and the bitmap directory: what was laid out is read again, and lies get errors.
#include "engine/base/endian.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/qcow2/table_readers.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace weir::qcow2 {
namespace {

using bytes = std::vector<std::byte>;

constexpr geometry shape{.version = 3, .cluster_bits = 12, .refcount_order = 4};
constexpr std::uint64_t cluster = 4096;

snapshot_entry some_snapshot(int number) {
  snapshot_entry made;
  made.l1_offset = cluster * 5;
  made.l1_count = 3;
  made.id = std::to_string(number);
  made.name = "snapshot number " + std::to_string(number);
  made.date_s = 1'700'000'000;
  made.date_ns = 999;
  made.vm_clock_ns = 77;
  made.vm_state_bytes = std::uint64_t{1} << 33;
  made.disk_bytes = 1 * GiB;
  return made;
}

class qcow2_table_readers : public testing::Test {
 protected:
  outcome<snapshot_table> read_snapshots(const bytes& table, std::uint32_t count) {
    simulated_disk disk;
    disk.load(cluster, table);
    simulated_storage file(disk);
    header head;
    head.shape = shape;
    head.snapshots_offset = cluster;
    head.snapshot_count = count;
    return test::run(io_, read_snapshot_table(file, head));
  }

  boost::asio::io_context io_;
};

TEST_F(qcow2_table_readers, read_the_snapshots_that_were_laid_out) {
  std::vector<snapshot_entry> entries;
  for (int number = 1; number <= 3000; ++number) entries.push_back(some_snapshot(number));
  entries[1].icount = 5;
  entries[2].unknown_extra = bytes(9, std::byte{7});
  entries[3].disk_bytes.reset();
  entries[4].name = std::string(65535, 'n');
  const auto table = lay_out_snapshots(entries);
  ASSERT_TRUE(table.has_value());
  const auto got = read_snapshots(*table, 3000);
  ASSERT_TRUE(got.has_value()) << got.error().what;
  EXPECT_EQ(got->length, table->size());
  EXPECT_TRUE(got->entries == entries);
}

TEST_F(qcow2_table_readers, refuse_snapshots_past_the_end_and_too_much_extra_data) {
  const std::vector<snapshot_entry> entries{some_snapshot(1), some_snapshot(2)};
  bytes table = *lay_out_snapshots(entries);
  EXPECT_FALSE(read_snapshots(table, 3).has_value());
  const bytes cut(table.begin(), table.end() - 1);
  EXPECT_FALSE(read_snapshots(cut, 2).has_value());
  store_big(table.data() + 36, std::uint32_t{1025});
  const auto refused = read_snapshots(table, 2);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, error_code(errc::corrupt_image));
  store_big(table.data() + 36, std::uint32_t{0xffff'ffff});
  EXPECT_FALSE(read_snapshots(table, 2).has_value());
}

TEST_F(qcow2_table_readers, survive_random_bytes) {
  std::mt19937_64 random(5);
  const std::vector<snapshot_entry> entries{some_snapshot(1), some_snapshot(2)};
  const bytes good = *lay_out_snapshots(entries);
  for (int round = 0; round < 2000; ++round) {
    bytes table = good;
    for (int change = 0; change < 4; ++change) table[random() % table.size()] = std::byte(random());
    const auto got = read_snapshots(table, 2);
    if (!got) continue;
    for (const snapshot_entry& each : got->entries) static_cast<void>(snapshot_fault(each, shape, 1 * MiB));
  }
}

TEST(qcow2_snapshot_fault, names_l1_tables_that_lie_nowhere) {
  snapshot_entry entry = some_snapshot(1);
  EXPECT_EQ(snapshot_fault(entry, shape, 1 * MiB), "");
  EXPECT_NE(snapshot_fault(entry, shape, 5 * cluster + 23), "");
  for (const std::uint64_t offset : {std::uint64_t{0}, cluster + 512, std::uint64_t{1} << 60}) {
    entry.l1_offset = offset;
    EXPECT_NE(snapshot_fault(entry, shape, ~std::uint64_t{0}), "") << offset;
  }
  entry.l1_count = 0;
  EXPECT_EQ(snapshot_fault(entry, shape, 1 * MiB), "");
  entry.l1_count = 4 * MiB + 1;
  EXPECT_NE(snapshot_fault(entry, shape, ~std::uint64_t{0}), "");
}

TEST(qcow2_bitmaps_extension, is_checked) {
  bytes data(bitmaps_extension_bytes);
  const bitmaps_place place{.count = 2, .directory = {cluster, 128}};
  lay_out_bitmaps_extension(data, place);
  const auto got = parse_bitmaps_extension(data, shape, 2 * cluster, "x");
  ASSERT_TRUE(got.has_value());
  EXPECT_EQ(*got, place);
  EXPECT_FALSE(parse_bitmaps_extension(std::span(data).first(16), shape, 2 * cluster, "x").has_value());
  EXPECT_FALSE(parse_bitmaps_extension(data, shape, cluster + 127, "x").has_value());
  const auto refused_with = [&](const bitmaps_place& wrong) {
    lay_out_bitmaps_extension(data, wrong);
    return !parse_bitmaps_extension(data, shape, ~std::uint64_t{0}, "x").has_value();
  };
  EXPECT_TRUE(refused_with({0, {cluster, 128}}));
  EXPECT_TRUE(refused_with({65536, {cluster, 65536 * 64}}));
  EXPECT_TRUE(refused_with({2, {cluster, 63}}));
  EXPECT_TRUE(refused_with({2, {cluster, std::uint64_t{1} << 40}}));
  EXPECT_TRUE(refused_with({2, {0, 128}}));
  EXPECT_TRUE(refused_with({2, {cluster + 8, 128}}));
  EXPECT_FALSE(refused_with(place));
  data[7] = std::byte{1};
  EXPECT_FALSE(parse_bitmaps_extension(data, shape, ~std::uint64_t{0}, "x").has_value());
}

std::vector<bitmap_entry> some_bitmaps() {
  bitmap_entry first{.table_offset = cluster, .table_count = 1, .flags = 2, .name = "first"};
  bitmap_entry second{.table_offset = 2 * cluster, .table_count = 2, .granularity_bits = 9, .name = "zweite"};
  second.flags = bitmap_flag::extra_data_compatible;
  second.extra = bytes(5, std::byte{1});
  bitmap_entry third{.name = std::string(1023, 'x')};
  return {first, second, third};
}

TEST(qcow2_bitmap_directory, is_read_as_laid_out) {
  const auto entries = some_bitmaps();
  bytes directory = lay_out_bitmap_directory(entries);
  const auto got = parse_bitmap_directory(directory, 3, "x");
  ASSERT_TRUE(got.has_value()) << got.error().what;
  EXPECT_TRUE(*got == entries);
  EXPECT_FALSE(parse_bitmap_directory(directory, 2, "x").has_value());
  EXPECT_FALSE(parse_bitmap_directory(directory, 4, "x").has_value());
  EXPECT_FALSE(parse_bitmap_directory(std::span(directory).first(directory.size() - 8), 3, "x").has_value());
  store_big(directory.data() + 20, std::uint32_t{0xffff'fff0});
  EXPECT_FALSE(parse_bitmap_directory(directory, 3, "x").has_value());
}

TEST(qcow2_bitmap_directory, refuses_names_that_are_missing_too_long_or_taken) {
  auto entries = some_bitmaps();
  entries[1].name = "first";
  EXPECT_FALSE(parse_bitmap_directory(lay_out_bitmap_directory(entries), 3, "x").has_value());
  entries[1].name = "";
  EXPECT_FALSE(parse_bitmap_directory(lay_out_bitmap_directory(entries), 3, "x").has_value());
  entries[1].name = std::string(1024, 'y');
  EXPECT_FALSE(parse_bitmap_directory(lay_out_bitmap_directory(entries), 3, "x").has_value());
}

TEST(qcow2_bitmap_fault, tells_what_cannot_be_used) {
  const bitmap_limits limits{.shape = shape, .virtual_size = 1 * GiB, .file_size = 64 * KiB};
  const bitmap_entry sound{.table_offset = cluster, .table_count = 1, .flags = 2, .name = "b"};
  EXPECT_EQ(bitmap_fault(sound, limits), "");
  const auto faulty = [&](auto change) {
    bitmap_entry entry = sound;
    change(entry);
    return !bitmap_fault(entry, limits).empty();
  };
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.type = 2; }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.flags |= 8; }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.extra.resize(1); }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.granularity_bits = 8; }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.granularity_bits = 32; }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.granularity_bits = 255; }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.table_offset = 0; }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.table_offset = 64 * KiB; }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.table_offset += 512; }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.table_count = 2; }));
  EXPECT_TRUE(faulty([](bitmap_entry& entry) { entry.table_count = 0xffff'ffff; }));
  EXPECT_FALSE(faulty([](bitmap_entry& entry) { entry.table_count = 2, entry.flags |= 1; }));
}

TEST(qcow2_bitmap_table_entry, is_decoded) {
  EXPECT_EQ(decode_bitmap_table_entry(0, shape).kind, bitmap_cluster::clear);
  EXPECT_EQ(decode_bitmap_table_entry(1, shape).kind, bitmap_cluster::set);
  const auto stored = decode_bitmap_table_entry(3 * cluster, shape);
  EXPECT_EQ(stored.kind, bitmap_cluster::stored);
  EXPECT_EQ(stored.host_offset, 3 * cluster);
  for (const std::uint64_t raw : {3 * cluster + 1, 3 * cluster + 512, std::uint64_t{2},
                                  cluster | std::uint64_t{1} << 63, std::uint64_t{1} << 56}) {
    EXPECT_EQ(decode_bitmap_table_entry(raw, shape).kind, bitmap_cluster::invalid) << raw;
  }
}

}  // namespace
}  // namespace weir::qcow2
