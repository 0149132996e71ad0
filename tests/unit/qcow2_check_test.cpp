// The counting logic of a check as pure code; its cost on big sparse and on small hostile images.
#include "engine/base/endian.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/qcow2/bitmap_directory.hpp"
#include "formats/qcow2/entry_rules.hpp"
#include "formats/qcow2/l2_entry.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "formats/qcow2/reference_counts.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace weir::test {
namespace {

using qcow2::copied_flag;
using qcow2::entry_rules;
using qcow2::entry_words;
using qcow2::examine_l1_entry;
using qcow2::examine_l2_entry;
using qcow2::reference_counts;
using qcow2::zero_flag;

TEST(qcow2_reference_counts, agree_with_a_plain_map) {
  std::mt19937_64 random(7);
  reference_counts counts;
  std::map<std::uint64_t, std::uint64_t> plain;
  for (int step = 0; step < 20000; ++step) {
    const std::uint64_t cluster = random() % 3 == 0 ? random() % 1000 : random() % 40 * 1'000'000'007;
    if (random() % 4 == 0 && plain.contains(cluster)) {
      counts.remove(cluster);
      if (--plain[cluster] == 0) plain.erase(cluster);
    } else {
      // Beyond the 14 bits that are kept in place now and then.
      const std::uint64_t times = random() % 50 == 0 ? 16381 + random() % 5 : 1;
      counts.add(cluster, times);
      plain[cluster] += times;
    }
    const std::uint64_t other = random() % 1000;
    counts.set_metadata(other, other % 3 == 0);
    counts.set_stored_once(other, other % 5 == 0);
    ASSERT_EQ(counts.count(cluster), plain.contains(cluster) ? plain[cluster] : 0);
    ASSERT_EQ(counts.is_metadata(other), other % 3 == 0);
    ASSERT_EQ(counts.is_stored_once(other), other % 5 == 0);
  }
  std::uint64_t from = 0;
  for (const auto& [cluster, count] : plain) {
    ASSERT_EQ(counts.next(from), cluster);
    ASSERT_EQ(counts.count(cluster), count);
    from = cluster + 1;
  }
  EXPECT_FALSE(counts.next(from).has_value());
  EXPECT_FALSE(counts.is_full());
}

class qcow2_entry_rules : public testing::Test {
 protected:
  static constexpr std::uint64_t cluster = 65536;

  entry_rules rules(std::uint64_t incompatible = 0, unsigned version = 3) const {
    qcow2::header head;
    head.shape.version = version;
    head.incompatible = incompatible;
    return {head, 100 * cluster};
  }
};

TEST_F(qcow2_entry_rules, sound_entries_have_no_fault) {
  for (const std::uint64_t word : {std::uint64_t{0}, zero_flag, 5 * cluster, copied_flag | 5 * cluster,
                                   copied_flag | 5 * cluster | zero_flag, std::uint64_t{1} << 62 | 70000}) {
    const auto entry = examine_l2_entry({word, 0}, 0, rules());
    EXPECT_EQ(entry.fault, "") << word;
    EXPECT_EQ(entry.repaired, (entry_words{word, 0})) << word;
  }
  EXPECT_EQ(examine_l2_entry({5 * cluster, 0}, 0, rules()).host, (byte_range{5 * cluster, cluster}));
  EXPECT_TRUE(examine_l2_entry({zero_flag, 0}, 0, rules()).host.empty());
}

TEST_F(qcow2_entry_rules, what_says_the_same_without_the_fault_is_repairable) {
  const auto expect = [&](std::uint64_t word, std::uint64_t repaired) {
    const auto entry = examine_l2_entry({word, 0}, 0, rules());
    EXPECT_NE(entry.fault, "") << word;
    EXPECT_TRUE(entry.is_repairable && !entry.loses_data) << word;
    EXPECT_EQ(entry.repaired.word, repaired) << word;
    EXPECT_EQ(examine_l2_entry({repaired, 0}, 0, rules()).fault, "") << "the repair needs repair";
  };
  expect(copied_flag | 5 * cluster | 0x2, copied_flag | 5 * cluster);
  expect(5 * cluster | std::uint64_t{1} << 60, 5 * cluster);
  expect(copied_flag, 0);
  expect(copied_flag | zero_flag, zero_flag);
  expect(5 * cluster + 512 + zero_flag, zero_flag);
  expect(100 * cluster + zero_flag, zero_flag);
  expect(copied_flag | std::uint64_t{1} << 62 | 70000, std::uint64_t{1} << 62 | 70000);
}

TEST_F(qcow2_entry_rules, data_in_an_impossible_place_is_lost_and_left) {
  for (const std::uint64_t word : {5 * cluster + 512, 100 * cluster, copied_flag | std::uint64_t{1} << 55,
                                   std::uint64_t{1} << 62 | 100 * cluster}) {
    const auto entry = examine_l2_entry({word, 0}, 0, rules());
    EXPECT_TRUE(entry.loses_data && !entry.is_repairable) << word;
    EXPECT_TRUE(entry.host.empty()) << word;
  }
  EXPECT_TRUE(examine_l2_entry({zero_flag, 0}, 0, rules(0, 2)).loses_data)
      << "version 2 has no zero clusters";
  for (const std::uint64_t raw : {5 * cluster + 512, 100 * cluster, copied_flag | std::uint64_t{1} << 55}) {
    const auto entry = examine_l1_entry(raw, rules());
    EXPECT_TRUE(!entry.fault.empty() && !entry.is_repairable && entry.table == 0) << raw;
  }
  EXPECT_EQ(examine_l1_entry(copied_flag | 5 * cluster | 6, rules()).repaired, copied_flag | 5 * cluster);
  EXPECT_EQ(examine_l1_entry(copied_flag, rules()).repaired, 0U);
}

TEST_F(qcow2_entry_rules, subclusters_that_contradict_themselves) {
  const entry_rules extended = rules(qcow2::incompatible_bit::extended_l2);
  EXPECT_EQ(examine_l2_entry({5 * cluster, 0x0000'00f0'0000'000f}, 0, extended).fault, "");
  EXPECT_EQ(examine_l2_entry({0, std::uint64_t{0xff} << 32}, 0, extended).fault, "");
  EXPECT_TRUE(examine_l2_entry({5 * cluster, 0x0000'0001'0000'0001}, 0, extended).loses_data);
  EXPECT_NE(examine_l2_entry({0, 1}, 0, extended).fault, "");
  EXPECT_NE(examine_l2_entry({std::uint64_t{1} << 62 | 70000, 1}, 0, extended).fault, "");
  const auto zero = examine_l2_entry({5 * cluster + 512, std::uint64_t{0xff} << 32}, 0, extended);
  EXPECT_TRUE(zero.is_repairable);
  EXPECT_EQ(zero.repaired, (entry_words{0, std::uint64_t{0xff} << 32}));
}

TEST_F(qcow2_entry_rules, a_data_file_wants_each_cluster_in_its_own_place) {
  const entry_rules apart = rules(qcow2::incompatible_bit::data_file);
  EXPECT_EQ(examine_l2_entry({copied_flag | 500 * cluster, 0}, 500 * cluster, apart).fault, "");
  EXPECT_EQ(examine_l2_entry({copied_flag, 0}, 0, apart).fault, "");
  EXPECT_TRUE(examine_l2_entry({copied_flag | 500 * cluster, 0}, 0, apart).loses_data);
  EXPECT_TRUE(examine_l2_entry({std::uint64_t{1} << 62 | 70000, 0}, 0, apart).loses_data);
}

/// What a check reads.
class counting_storage final : public storage {
 public:
  counting_storage(simulated_disk& disk, std::uint64_t& bytes_read) : inner_(disk), bytes_read_(bytes_read) {}
  const std::string& location() const noexcept override { return inner_.location(); }
  const storage_capabilities& capabilities() const noexcept override { return inner_.capabilities(); }
  std::uint64_t size() const noexcept override { return inner_.size(); }
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  void note_descriptor_write(byte_range) noexcept override {}
  std::optional<identity_type> identity() const noexcept override { return inner_.identity(); }

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override {
    bytes_read_ += buffer.size();
    return inner_.read(offset, buffer);
  }
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override {
    return inner_.write(offset, data);
  }
  task<result<void>> do_flush() override { return inner_.flush(); }
  task<result<void>> do_zero(byte_range range, zero_mode mode) override { return inner_.zero(range, mode); }
  task<result<void>> do_discard(byte_range range) override { return inner_.discard(range); }
  task<result<void>> do_truncate(std::uint64_t length) override { return inner_.truncate(length); }
  task<result<storage_run>> do_status(byte_range range) override { return inner_.status(range); }
  task<result<void>> do_close() override { return inner_.close(); }

  simulated_storage inner_;
  std::uint64_t& bytes_read_;
};

class qcow2_check_cost : public testing::Test {
 protected:
  outcome<check_report> check(repair_mode repair) {
    bytes_read_ = 0;
    check_options options;
    options.repair = repair;
    options.on_finding = [this](std::string_view) { ++line_count_; };
    return run(io_, qcow2_driver().check(std::make_unique<counting_storage>(disk_, bytes_read_), options));
  }

  boost::asio::io_context io_;
  simulated_disk disk_;
  std::uint64_t bytes_read_ = 0;
  std::uint64_t line_count_ = 0;
};

TEST_F(qcow2_check_cost, follows_what_a_big_image_holds) {
  for (const char* cluster_size : {"65536", "2097152", "4096"}) {
    SCOPED_TRACE(cluster_size);
    disk_ = simulated_disk();
    image_create_options options;
    options.virtual_size = TiB;
    options.options["cluster_size"] = cluster_size;
    simulated_storage into(disk_);
    ASSERT_TRUE(run(io_, qcow2_driver().create(into, options)).has_value());
    auto opened = run(
        io_, qcow2_driver().open(std::make_unique<counting_storage>(disk_, bytes_read_), {.writable = true}));
    ASSERT_TRUE(opened.has_value());
    image_driver driver(**opened);
    const std::vector<std::byte> data(4096, std::byte{7});
    for (const std::uint64_t at : {std::uint64_t{0}, 300 * GiB, TiB - 4096}) {
      EXPECT_TRUE(run(io_, driver.write(at, data)).has_value());
    }
    EXPECT_TRUE(run(io_, (*opened)->close()).has_value());
    disk_.settle_all();
    const auto report = check(repair_mode::none);
    ASSERT_TRUE(report.has_value());
    EXPECT_TRUE(report->is_clean());
    EXPECT_EQ(report->allocated_clusters, 3U);
    // Header, L1 table, three L2 tables, a refcount block or two; two looks at the tables.
    EXPECT_LT(bytes_read_, 24 * MiB);
  }
}

TEST_F(qcow2_check_cost, stays_small_on_a_small_hostile_image) {
  image_create_options options;
  options.virtual_size = 64 * KiB;
  options.options["cluster_size"] = "512";
  simulated_storage into(disk_);
  ASSERT_TRUE(run(io_, qcow2_driver().create(into, options)).has_value());
  std::vector<std::byte> image(4096);
  disk_.visible().read(0, std::span(image).first(static_cast<std::size_t>(disk_.size())));
  // Every table entry leads somewhere: all L1 entries to one L2 table, all L2 entries to far and near places.
  const std::uint64_t l1 = 2048;
  store_big(image.data() + 40, l1);
  store_big(image.data() + 36, std::uint32_t{128});
  for (std::uint64_t at = l1; at < l1 + 1024; at += 8) store_big(image.data() + at, copied_flag | 3072);
  std::mt19937_64 random(3);
  for (std::uint64_t at = 3072; at < 4096; at += 8) {
    store_big(image.data() + at, random() % 3 == 0 ? random() : copied_flag | random() % 8 * 512);
  }
  // Snapshots that share the table, as many as there is room for.
  store_big(image.data() + 60, std::uint32_t{12});
  store_big(image.data() + 64, std::uint64_t{1536});
  for (std::uint64_t at = 1536; at < 2016; at += 40) {
    store_big(image.data() + at, l1);
    store_big(image.data() + at + 8, std::uint32_t{128});
  }
  for (const repair_mode repair : {repair_mode::none, repair_mode::leaks, repair_mode::all}) {
    disk_ = simulated_disk();
    disk_.load(0, image);
    const auto report = check(repair);
    ASSERT_TRUE(report.has_value());
    EXPECT_GT(report->corruptions, 0U);
    EXPECT_LT(bytes_read_, 2 * MiB);
    EXPECT_LT(disk_.size(), 64 * KiB);
  }
  EXPECT_LT(line_count_, 20000U);
}

TEST_F(qcow2_check_cost, many_bitmaps_that_name_one_table_read_it_once) {
  constexpr std::uint32_t bitmap_count = 2000;
  constexpr std::uint64_t table = MiB;
  constexpr std::uint64_t directory = 3 * MiB;
  image_create_options options;
  options.virtual_size = 64 * KiB;
  options.options["cluster_size"] = "4096";
  simulated_storage into(disk_);
  ASSERT_TRUE(run(io_, qcow2_driver().create(into, options)).has_value());
  disk_.settle_all();
  const auto put = [this](std::uint64_t at, auto value) {
    std::vector<std::byte> raw(sizeof value);
    store_big(raw.data(), value);
    disk_.load(at, raw);
  };
  std::vector<qcow2::bitmap_entry> entries(bitmap_count);
  for (std::uint32_t index = 0; index < bitmap_count; ++index) {
    entries[index] = {.table_offset = table, .table_count = 131072, .name = std::to_string(index)};
  }
  const std::vector<std::byte> laid_out = qcow2::lay_out_bitmap_directory(entries);
  disk_.load(directory, laid_out);
  disk_.load(table, std::vector<std::byte>(MiB, std::byte{0x11}));
  put(88, std::uint64_t{qcow2::bitmaps_bit});
  std::vector<std::byte> place(qcow2::bitmaps_extension_bytes);
  qcow2::lay_out_bitmaps_extension(place, {bitmap_count, {directory, laid_out.size()}});
  std::vector<std::byte> length(4);
  disk_.visible().read(100, length);
  const std::uint64_t extension = load_big<std::uint32_t>(length.data());
  put(extension, qcow2::bitmaps_extension_type);
  put(extension + 4, static_cast<std::uint32_t>(place.size()));
  disk_.load(extension + 8, place);
  put(extension + 8 + place.size(), std::uint64_t{0});
  const auto report = check(repair_mode::none);
  ASSERT_TRUE(report.has_value());
  EXPECT_GT(report->corruptions, bitmap_count - 1);
  EXPECT_LT(bytes_read_, 4 * MiB);
}

TEST_F(qcow2_check_cost, random_rubbish_neither_crashes_nor_grows) {
  std::mt19937_64 random(5);
  image_create_options options;
  options.virtual_size = 64 * KiB;
  options.options["cluster_size"] = "512";
  simulated_storage into(disk_);
  ASSERT_TRUE(run(io_, qcow2_driver().create(into, options)).has_value());
  std::vector<std::byte> good(8192);
  disk_.visible().read(0, std::span(good).first(static_cast<std::size_t>(disk_.size())));
  for (int round = 0; round < 1000; ++round) {
    std::vector<std::byte> image = good;
    for (std::uint64_t left = 1 + random() % 200; left > 0; --left) {
      const std::uint64_t at = random() % 4 == 0 ? 24 + random() % 90 : 512 + random() % 7680;
      image[static_cast<std::size_t>(at)] =
          static_cast<std::byte>(random() % 2 == 0 ? random() : 1U << random() % 8);
    }
    for (const repair_mode repair : {repair_mode::none, repair_mode::all}) {
      disk_ = simulated_disk();
      disk_.load(0, image);
      static_cast<void>(check(repair));
      ASSERT_LT(bytes_read_, 16 * MiB) << "round " << round;
    }
  }
}

}  // namespace
}  // namespace weir::test
