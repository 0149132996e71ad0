#include "engine/base/endian.hpp"
#include "formats/qcow2/create_options.hpp"
#include "formats/qcow2/header.hpp"
#include "formats/qcow2/header_layout.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace weir::qcow2 {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t file_size = 1 * MiB;

header plain_header(unsigned cluster_bits, unsigned version = 3) {
  header made;
  made.shape = {.version = version, .cluster_bits = cluster_bits, .refcount_order = 4};
  made.virtual_size = 64 * KiB;
  made.refcount_table_offset = made.shape.cluster_size();
  made.refcount_table_clusters = 1;
  made.l1_offset = made.shape.cluster_size() * 3;
  made.l1_count =
      static_cast<std::uint32_t>((64 * KiB + made.shape.table_span() - 1) / made.shape.table_span());
  return made;
}

bytes laid_out(const header& wanted) {
  const auto made = lay_out_header(wanted);
  EXPECT_TRUE(made.has_value());
  return made ? *made : bytes();
}

outcome<header> parse(const bytes& cluster, std::uint64_t size = file_size) {
  return parse_header(cluster, size, "test.qcow2");
}

template <class T>
bytes with(bytes cluster, std::uint64_t at, T value) {
  store_big(cluster.data() + at, value);
  return cluster;
}

void expect_refused(const bytes& cluster, errc code, std::string_view word) {
  const auto parsed = parse(cluster);
  ASSERT_FALSE(parsed.has_value()) << "expected a refusal with: " << word;
  EXPECT_EQ(parsed.error().code, error_code(code)) << parsed.error().what;
  EXPECT_TRUE(parsed.error().what.starts_with("test.qcow2: ")) << parsed.error().what;
  EXPECT_TRUE(parsed.error().what.contains(word)) << parsed.error().what;
}

TEST(qcow2_header, what_is_laid_out_parses_as_it_was_meant) {
  for (const unsigned version : {2U, 3U}) {
    for (unsigned bits = 9; bits <= 16; ++bits) {
      header wanted = plain_header(bits, version);
      wanted.backing = backing_reference{"base.img", "raw", false};
      const auto parsed = parse(laid_out(wanted));
      ASSERT_TRUE(parsed.has_value()) << parsed.error().what;
      EXPECT_EQ(parsed->virtual_size, wanted.virtual_size);
      EXPECT_EQ(parsed->l1_offset, wanted.l1_offset);
      EXPECT_EQ(parsed->shape.version, version);
      EXPECT_EQ(parsed->backing, wanted.backing);
      EXPECT_TRUE(parsed->has_end_marker || bits == 9);
    }
  }
}

TEST(qcow2_header, hostile_fields_are_refused_by_name) {
  const bytes good = laid_out(plain_header(12));
  ASSERT_TRUE(parse(good).has_value());
  expect_refused(with<std::uint32_t>(good, 0, 0), errc::not_this_format, "no qcow2 header");
  expect_refused(with<std::uint32_t>(good, 4, 1), errc::unsupported_feature, "version 1");
  expect_refused(with<std::uint32_t>(good, 20, 8), errc::corrupt_image, "cluster_bits");
  expect_refused(with<std::uint32_t>(good, 20, 22), errc::corrupt_image, "cluster_bits");
  expect_refused(with<std::uint32_t>(good, 20, 0xffffffff), errc::corrupt_image, "cluster_bits");
  expect_refused(with<std::uint64_t>(good, 24, std::uint64_t{1} << 63), errc::corrupt_image, "virtual size");
  expect_refused(with<std::uint64_t>(good, 24, std::uint64_t{1} << 62), errc::corrupt_image, "l1_size");
  EXPECT_TRUE(parse(with<std::uint32_t>(good, 32, aes_encryption)).has_value()) << "the opener's question";
  expect_refused(with<std::uint32_t>(good, 32, 2), errc::unsupported_feature, "LUKS");
  expect_refused(with<std::uint32_t>(good, 32, 9), errc::corrupt_image, "crypt_method");
  expect_refused(with<std::uint32_t>(good, 36, 0), errc::corrupt_image, "l1_size");
  expect_refused(with<std::uint32_t>(good, 36, 0x20000001), errc::corrupt_image, "l1_size");
  expect_refused(with<std::uint32_t>(good, 36, 0x00400000), errc::corrupt_image, "end of the file");
  expect_refused(with<std::uint64_t>(good, 40, 0), errc::corrupt_image, "L1 table");
  expect_refused(with<std::uint64_t>(good, 40, 12289), errc::corrupt_image, "L1 table");
  expect_refused(with<std::uint64_t>(good, 40, file_size), errc::corrupt_image, "end of the file");
  expect_refused(with<std::uint64_t>(good, 40, std::uint64_t{1} << 63), errc::corrupt_image, "L1 table");
  expect_refused(with<std::uint64_t>(good, 40, 4096), errc::corrupt_image, "overlaps");
  expect_refused(with<std::uint64_t>(good, 48, 100), errc::corrupt_image, "refcount table");
  expect_refused(with<std::uint64_t>(good, 48, file_size * 2), errc::corrupt_image, "refcount table");
  expect_refused(with<std::uint32_t>(good, 56, 0xffffffff), errc::corrupt_image, "refcount_table_clusters");
  expect_refused(with<std::uint32_t>(good, 60, 65537), errc::corrupt_image, "nb_snapshots");
  expect_refused(with(with<std::uint32_t>(good, 60, 1), 64, file_size), errc::corrupt_image,
                 "snapshot table");
  expect_refused(with<std::uint32_t>(good, 96, 7), errc::corrupt_image, "refcount_order");
  expect_refused(with<std::uint32_t>(good, 100, 96), errc::corrupt_image, "header_length");
  expect_refused(with<std::uint32_t>(good, 100, 4104), errc::corrupt_image, "header_length");
  expect_refused(with<std::uint32_t>(good, 100, 113), errc::corrupt_image, "header_length");
}

TEST(qcow2_header, features_are_refused_by_their_names) {
  const bytes good = laid_out(plain_header(12));
  expect_refused(with<std::uint64_t>(good, 72, 16), errc::corrupt_image, "subclusters");
  expect_refused(with<std::uint64_t>(good, 72, std::uint64_t{1} << 40), errc::unsupported_feature, "bit 40");
  // The feature table names bits: rename the first entry's bit to 40.
  bytes named = with<std::uint64_t>(good, 72, std::uint64_t{1} << 40);
  named[112 + 8 + 1] = std::byte{40};
  expect_refused(named, errc::unsupported_feature, "'dirty bit'");
  expect_refused(with<std::uint64_t>(good, 72, 8), errc::corrupt_image, "compression type");
  expect_refused(with<std::uint8_t>(good, 104, 1), errc::corrupt_image, "compression type");
  expect_refused(with<std::uint8_t>(with<std::uint64_t>(good, 72, 8), 104, 2), errc::unsupported_feature,
                 "compression type 2");
}

TEST(qcow2_header, extensions_end_inside_the_header_cluster) {
  const bytes good = laid_out(plain_header(12));
  expect_refused(with<std::uint32_t>(good, 116, 0xffffffff), errc::corrupt_image, "header extension");
  expect_refused(with<std::uint32_t>(good, 116, 4096), errc::corrupt_image, "header extension");
}

TEST(qcow2_header, backing_names_are_bounded) {
  header wanted = plain_header(12);
  wanted.backing = backing_reference{"base.img", "raw", false};
  const bytes good = laid_out(wanted);
  expect_refused(with<std::uint32_t>(good, 16, 0), errc::corrupt_image, "name length");
  expect_refused(with<std::uint32_t>(good, 16, 1024), errc::corrupt_image, "name length");
  expect_refused(with<std::uint64_t>(good, 8, 4090), errc::corrupt_image, "header cluster");
  expect_refused(with<std::uint64_t>(good, 8, 50), errc::corrupt_image, "header cluster");
  expect_refused(with<std::uint64_t>(good, 8, ~std::uint64_t{0}), errc::corrupt_image, "header cluster");
  bytes nul = good;
  nul[load_big<std::uint64_t>(good.data() + 8) + 2] = std::byte{0};
  expect_refused(nul, errc::corrupt_image, "NUL");
  wanted.backing->name = std::string(5000, 'x');
  EXPECT_EQ(lay_out_header(wanted).error(), errc::out_of_range);
  header smallest = plain_header(9);
  smallest.backing = backing_reference{std::string(500, 'x'), "raw", false};
  EXPECT_EQ(lay_out_header(smallest).error(), errc::name_too_long);
}

TEST(qcow2_header, short_files_are_refused) {
  const bytes good = laid_out(plain_header(12));
  for (const std::size_t length : {0UL, 3UL, 23UL}) {
    EXPECT_FALSE(parse_header(std::span(good).first(length), length, "short").has_value());
  }
  EXPECT_FALSE(parse(good, 71).has_value());
  EXPECT_FALSE(parse(good, 103).has_value());
}

TEST(qcow2_header, random_damage_never_reads_outside) {
  std::mt19937_64 random(9);
  header wanted = plain_header(9);
  wanted.backing = backing_reference{"base.img", "qcow2", false};
  const bytes good = laid_out(wanted);
  for (int round = 0; round < 20000; ++round) {
    bytes damaged = good;
    for (std::uint64_t count = 1 + random() % 4; count > 0; --count) {
      damaged[8 + random() % (damaged.size() - 8)] = static_cast<std::byte>(random());
    }
    const auto parsed = parse(damaged);
    if (parsed) {
      EXPECT_LE(parsed->l1_offset + parsed->l1_count * entry_bytes, file_size);
      EXPECT_LE(parsed->extensions_end, damaged.size());
    }
  }
}

// A change of the backing image, torn: of each step any subset of its sectors arrives.
void expect_untearable(const bytes& start, const backing_reference* from,
                       const std::optional<backing_reference>& to, std::mt19937_64& random, bytes* end) {
  const auto current = parse(start);
  ASSERT_TRUE(current.has_value()) << current.error().what;
  const auto steps = plan_backing_change(start, *current, to);
  ASSERT_TRUE(steps.has_value()) << steps.error().message();
  const std::optional<backing_reference> before = from ? std::optional(*from) : std::nullopt;
  bytes disk = start;
  for (const header_step& step : *steps) {
    for (int round = 0; round < 40; ++round) {
      bytes torn = disk;
      for (std::size_t at = 0; at < step.bytes.size(); at += sector_bytes) {
        if (random() % 2 == 0)
          std::memcpy(torn.data() + step.offset + at, step.bytes.data() + at, sector_bytes);
      }
      const auto parsed = parse(torn);
      ASSERT_TRUE(parsed.has_value()) << parsed.error().what;
      EXPECT_TRUE(parsed->backing == before || parsed->backing == to)
          << "torn: " << (parsed->backing ? parsed->backing->name + "/" + parsed->backing->format : "none");
    }
    std::memcpy(disk.data() + step.offset, step.bytes.data(), step.bytes.size());
  }
  const auto parsed = parse(disk);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().what;
  EXPECT_EQ(parsed->backing, to);
  *end = disk;
}

TEST(qcow2_header_layout, a_change_of_the_backing_image_cannot_be_torn) {
  std::mt19937_64 random(1);
  const std::optional<backing_reference> choices[] = {std::nullopt, backing_reference{"b", "raw", false},
                                                      backing_reference{"other", "qcow2", false},
                                                      backing_reference{std::string(700, 'n'), "qed", false},
                                                      // As long as names get: the place alternates.
                                                      backing_reference{std::string(1023, 'm'), "raw", false},
                                                      backing_reference{std::string(900, 'k'), "raw", false}};
  for (const unsigned version : {2U, 3U}) {
    for (const unsigned bits : {12U, 16U}) {
      bytes disk = laid_out(plain_header(bits, version));
      std::optional<backing_reference> now;
      for (int change = 0; change < 60; ++change) {
        const auto& next = choices[random() % std::size(choices)];
        bytes after;
        ASSERT_NO_FATAL_FAILURE(expect_untearable(disk, now ? &*now : nullptr, next, random, &after));
        disk = after;
        now = next;
      }
    }
  }
}

// QEMU's header without a backing image fills sector 0 to the byte, so that everything moves.
TEST(qcow2_header_layout, a_change_from_qemus_layout_cannot_be_torn) {
  std::mt19937_64 random(2);
  bytes disk = laid_out(plain_header(16));
  // An eighth feature name, as QEMU writes: the end marker is at 504.
  store_big(disk.data() + 116, std::uint32_t{8 * 48});
  std::fill_n(disk.begin() + 112 + 8 + 7 * 48, 48 + 8, std::byte{0});
  ASSERT_EQ(parse(disk)->extensions_end, 512U);
  bytes after;
  const std::optional<backing_reference> to = backing_reference{"base.raw", "raw", false};
  ASSERT_NO_FATAL_FAILURE(expect_untearable(disk, nullptr, to, random, &after));
  bytes last;
  ASSERT_NO_FATAL_FAILURE(expect_untearable(after, &*to, std::nullopt, random, &last));
}

TEST(qcow2_header_layout, unknown_extensions_survive) {
  header wanted = plain_header(16);
  bytes disk = laid_out(wanted);
  const std::uint64_t at = parse(disk)->extensions_end - 8;
  store_big(disk.data() + at, std::uint32_t{0x12345678});
  store_big(disk.data() + at + 4, std::uint32_t{5});
  std::memcpy(disk.data() + at + 8, "hello", 5);
  std::mt19937_64 random(3);
  const std::optional<backing_reference> to = backing_reference{"base.raw", "raw", false};
  bytes after;
  ASSERT_NO_FATAL_FAILURE(expect_untearable(disk, nullptr, to, random, &after));
  const auto parsed = parse(after);
  const extension* kept = parsed->find(0x12345678);
  ASSERT_NE(kept, nullptr);
  EXPECT_EQ(std::memcmp(after.data() + kept->data.offset, "hello", 5), 0);
  EXPECT_NE(parsed->find(feature_names_extension), nullptr);
}

TEST(qcow2_create_options, are_refused_by_name) {
  const auto refused = [](const std::string& key, const std::string& value) {
    image_create_options options;
    options.virtual_size = MiB;
    options.options[key] = value;
    const auto parsed = parse_create_options(options);
    ASSERT_FALSE(parsed.has_value()) << key << "=" << value;
    EXPECT_TRUE(parsed.error().what.contains(key)) << parsed.error().what;
  };
  refused("cluster_size", "100");
  refused("cluster_size", "4M");
  refused("cluster_size", "64Kx");
  refused("refcount_bits", "3");
  refused("refcount_bits", "128");
  refused("compat", "4");
  refused("lazy_refcounts", "maybe");
  refused("compression_type", "lz4");
  refused("preallocation", "some");
  refused("extended_l2", "maybe");
  refused("data_file", "");
  refused("data_file", "nbd:localhost:1");
  refused("data_file_raw", "on");
  refused("encrypt.format", "luks");
}

}  // namespace
}  // namespace weir::qcow2
