#include "formats/qed/header.hpp"
#include "formats/qed/layout.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace weir::qed {
namespace {

constexpr std::uint64_t file_bytes = 10 * MiB;

header sound_header() {
  header fields;
  fields.shape = {64 * KiB, 4};
  fields.l1_offset = 64 * KiB;
  fields.image_bytes = GiB;
  return fields;
}

outcome<header> parse(const header& fields, std::uint64_t length = file_bytes) {
  const header_fields bytes = encode_header(fields);
  return parse_header(bytes, length, "disk.qed");
}

TEST(qed_header, survives_encoding) {
  header fields = sound_header();
  fields.header_clusters = 1;
  fields.features = feature::known;
  fields.compatible_features = 0xf0f0;
  fields.autoclear_features = std::uint64_t{1} << 63;
  fields.backing_name = {100, 1023};
  EXPECT_EQ(parse(fields).value(), fields);
}

TEST(qed_header, is_little_endian_at_the_documented_offsets) {
  header fields = sound_header();
  fields.autoclear_features = 0x0102;
  const header_fields bytes = encode_header(fields);
  EXPECT_EQ(bytes[0], std::byte{'Q'});
  EXPECT_EQ(bytes[3], std::byte{0});
  EXPECT_EQ(bytes[6], std::byte{1});  // cluster size 0x00010000
  EXPECT_EQ(bytes[8], std::byte{4});
  EXPECT_EQ(bytes[32], std::byte{2});
  EXPECT_EQ(bytes[42], std::byte{1});  // L1 at 0x00010000
  EXPECT_EQ(bytes[51], std::byte{0x40});
}

TEST(qed_header, of_a_short_or_foreign_file_is_refused) {
  const header_fields bytes = encode_header(sound_header());
  EXPECT_EQ(parse_header({}, 0, "x").error().code, make_error_code(errc::not_this_format));
  EXPECT_EQ(parse_header(std::span(bytes).first(4), 4, "x").error().code,
            make_error_code(errc::corrupt_image));
  EXPECT_EQ(parse_header(std::span(bytes).first(63), 63, "x").error().code,
            make_error_code(errc::corrupt_image));
  header_fields foreign = bytes;
  foreign[3] = std::byte{0xfb};
  EXPECT_EQ(parse_header(foreign, file_bytes, "x").error().code, make_error_code(errc::not_this_format));
}

TEST(qed_header, names_the_unknown_feature_bit) {
  header fields = sound_header();
  fields.features = std::uint64_t{1} << 37 | feature::need_check;
  const auto refused = parse(fields);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, make_error_code(errc::unsupported_feature));
  EXPECT_NE(refused.error().what.find("37"), std::string::npos) << refused.error().what;
}

struct attack {
  const char* name;
  void (*damage)(header&);
};

class qed_header_attack : public testing::TestWithParam<attack> {};

TEST_P(qed_header_attack, is_refused_as_corrupt) {
  header fields = sound_header();
  ASSERT_TRUE(parse(fields));
  GetParam().damage(fields);
  const auto refused = parse(fields);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, make_error_code(errc::corrupt_image)) << refused.error().what;
  EXPECT_EQ(refused.error().what.find("disk.qed: "), 0U) << refused.error().what;
}

constexpr std::uint64_t all_ones = std::numeric_limits<std::uint64_t>::max();

INSTANTIATE_TEST_SUITE_P(
    rows, qed_header_attack,
    testing::Values(
        attack{"cluster_0", [](header& h) { h.shape.cluster_bytes = 0; }},
        attack{"cluster_2k", [](header& h) { h.shape.cluster_bytes = 2 * KiB; }},
        attack{"cluster_128m", [](header& h) { h.shape.cluster_bytes = 128 * MiB; }},
        attack{"cluster_odd", [](header& h) { h.shape.cluster_bytes = 65537; }},
        attack{"table_0", [](header& h) { h.shape.table_clusters = 0; }},
        attack{"table_3", [](header& h) { h.shape.table_clusters = 3; }},
        attack{"table_32", [](header& h) { h.shape.table_clusters = 32; }},
        attack{"table_2_31", [](header& h) { h.shape.table_clusters = 1U << 31; }},
        attack{"header_0", [](header& h) { h.header_clusters = 0; }},
        attack{"header_huge", [](header& h) { h.header_clusters = 0xffff'ffff; }},
        attack{"l1_0", [](header& h) { h.l1_offset = 0; }},
        attack{"l1_unaligned", [](header& h) { h.l1_offset += 512; }},
        attack{"l1_past_end", [](header& h) { h.l1_offset = file_bytes; }},
        attack{"l1_ends_past_end", [](header& h) { h.l1_offset = file_bytes - 64 * KiB; }},
        attack{"l1_2_63", [](header& h) { h.l1_offset = std::uint64_t{1} << 63; }},
        attack{"l1_wraps", [](header& h) { h.l1_offset = all_ones - 65535; }},
        attack{"size_odd", [](header& h) { h.image_bytes += 1; }},
        attack{"size_2_63", [](header& h) { h.image_bytes = std::uint64_t{1} << 63; }},
        attack{"size_negative", [](header& h) { h.image_bytes = all_ones - 511; }},
        attack{"size_unmappable", [](header& h) { h.image_bytes = 32768 * (2 * GiB) + 512; }},
        attack{"backing_0", [](header& h) { h.features = 1, h.backing_name = {64, 0}; }},
        attack{"backing_1024", [](header& h) { h.features = 1, h.backing_name = {64, 1024}; }},
        attack{"backing_in_fields", [](header& h) { h.features = 1, h.backing_name = {63, 9}; }},
        attack{"backing_past_header", [](header& h) { h.features = 1, h.backing_name = {65530, 7}; }},
        attack{"backing_wraps", [](header& h) { h.features = 1, h.backing_name = {0xffff'ffff, 1000}; }}),
    [](const auto& row) { return row.param.name; });

TEST(qed_header, takes_the_extremes_that_are_valid) {
  header fields = sound_header();
  fields.image_bytes = 32768 * (2 * GiB);
  EXPECT_TRUE(parse(fields));
  fields.image_bytes = 0;
  EXPECT_TRUE(parse(fields));
  // The last cluster of a table may be cut short by the end of the file.
  fields.l1_offset = file_bytes - 4 * 64 * KiB;
  EXPECT_TRUE(parse(fields, file_bytes - 65535));
  EXPECT_FALSE(parse(fields, file_bytes - 65536));
}

TEST(qed_header, ignores_the_backing_name_without_its_feature) {
  header fields = sound_header();
  fields.backing_name = {0xffff'ffff, 0xffff'ffff};
  EXPECT_TRUE(parse(fields));
}

TEST(qed_header, no_probe_bit_is_the_format_raw) {
  EXPECT_EQ(features_with_backing(feature::need_check, backing_reference{"b", "raw", false}), feature::known);
  EXPECT_EQ(features_with_backing(feature::known, backing_reference{"b", "qcow2", false}),
            feature::backing_file | feature::need_check);
  EXPECT_EQ(features_with_backing(feature::known, std::nullopt), feature::need_check);
  header fields;
  fields.features = feature::backing_file;
  EXPECT_EQ(describe_backing(fields, "b"), (backing_reference{"b", "", true}));
  fields.features |= feature::backing_is_raw;
  EXPECT_EQ(describe_backing(fields, "b"), (backing_reference{"b", "raw", false}));
}

TEST(qed_geometry, largest_image_does_not_overflow) {
  EXPECT_EQ(largest_image_bytes({64 * MiB, 16}), (std::uint64_t{1} << 63) - 512);
  EXPECT_EQ(largest_image_bytes({4 * KiB, 1}), 512 * 512 * 4 * KiB);
}

class occupancy_test : public testing::Test {
 protected:
  static constexpr geometry shape{4 * KiB, 2};
  static constexpr std::uint64_t file = MiB + 100;
  occupancy space{shape, 4 * KiB, 8 * KiB};  // L1 table: 8…16 KiB
};

TEST_F(occupancy_test, tables_lie_aligned_between_header_and_end_beside_the_l1_table) {
  EXPECT_TRUE(space.may_be_table(16 * KiB, file));
  EXPECT_TRUE(space.may_be_table(MiB - 4 * KiB, file));
  for (const std::uint64_t offset : {std::uint64_t{0}, 4 * KiB, 8 * KiB, 12 * KiB, 16 * KiB + 512, MiB,
                                     std::uint64_t{1} << 63, all_ones - 4095}) {
    EXPECT_FALSE(space.may_be_table(offset, file)) << offset;
  }
}

TEST_F(occupancy_test, overlapping_tables_are_both_unsound) {
  space.set_tables({64 * KiB, 32 * KiB, 36 * KiB, 96 * KiB, 96 * KiB});
  EXPECT_TRUE(space.is_sound_table(64 * KiB));
  for (const std::uint64_t offset : {32 * KiB, 36 * KiB, 96 * KiB, 48 * KiB}) {
    EXPECT_FALSE(space.is_sound_table(offset)) << offset;
  }
  EXPECT_EQ(space.find_aliased_table(), 32 * KiB);
  space.set_tables({64 * KiB, 72 * KiB});
  EXPECT_EQ(space.find_aliased_table(), std::nullopt);
}

TEST_F(occupancy_test, data_is_no_metadata) {
  space.set_tables({64 * KiB});
  EXPECT_TRUE(space.may_be_data(60 * KiB, file));
  EXPECT_TRUE(space.may_be_data(72 * KiB, file));
  EXPECT_TRUE(space.may_be_data(MiB, file));
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{1}, std::uint64_t{2}, 8 * KiB, 12 * KiB,
                                     64 * KiB, 68 * KiB, 72 * KiB + 1, MiB + 4 * KiB, all_ones - 4095}) {
    EXPECT_FALSE(space.may_be_data(offset, file)) << offset;
  }
}

TEST(free_space, grows_at_the_end_in_whole_clusters) {
  free_space space(10'000, 4 * KiB);
  const auto first = space.take(8 * KiB);
  ASSERT_TRUE(first);
  EXPECT_EQ(first->host, (byte_range{12 * KiB, 8 * KiB}));
  EXPECT_TRUE(first->is_fresh);
}

TEST(free_space, takes_back_the_end_only_and_remembers_that_it_was_used) {
  free_space space(0, 4 * KiB);
  const auto first = space.take(4 * KiB);
  const auto second = space.take(4 * KiB);
  space.give_back(first->host);
  EXPECT_EQ(space.take(4 * KiB)->host.offset, 8 * KiB);
  space.give_back({8 * KiB, 4 * KiB});
  space.give_back(second->host);
  const auto reused = space.take(4 * KiB);
  EXPECT_EQ(reused->host, second->host);
  EXPECT_FALSE(reused->is_fresh);
  const auto fresh = space.take_fresh(4 * KiB);
  EXPECT_EQ(fresh->host.offset, 12 * KiB);
  EXPECT_TRUE(fresh->is_fresh);
}

TEST(free_space, ends_where_files_end) {
  free_space space((std::uint64_t{1} << 63) - 64 * KiB, 64 * KiB);
  EXPECT_FALSE(space.take(64 * KiB));
}

}  // namespace
}  // namespace weir::qed
