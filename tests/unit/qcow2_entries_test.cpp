#include "formats/qcow2/l2_entry.hpp"
#include "formats/qcow2/metadata_map.hpp"
#include "formats/qcow2/refcount_codec.hpp"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <vector>

namespace weir::qcow2 {
namespace {

constexpr geometry v3{.version = 3, .cluster_bits = 16, .refcount_order = 4};
constexpr geometry v2{.version = 2, .cluster_bits = 16, .refcount_order = 4};

TEST(qcow2_l2_entry, standard_entries) {
  EXPECT_EQ(decode_l2_entry(0, v3).kind, entry_kind::unallocated);
  EXPECT_EQ(decode_l2_entry(1, v3).kind, entry_kind::zero_plain);
  const l2_entry data = decode_l2_entry(copied_flag | 0x50000, v3);
  EXPECT_EQ(data.kind, entry_kind::data);
  EXPECT_TRUE(data.copied);
  EXPECT_EQ(data.host_offset, 0x50000U);
  EXPECT_FALSE(decode_l2_entry(0x50000, v3).copied);
  EXPECT_EQ(decode_l2_entry(copied_flag | 0x50001, v3).kind, entry_kind::zero_allocated);
}

TEST(qcow2_l2_entry, contradictions_are_invalid) {
  EXPECT_EQ(decode_l2_entry(1, v2).kind, entry_kind::invalid) << "zero flag in version 2";
  EXPECT_EQ(decode_l2_entry(copied_flag, v3).kind, entry_kind::invalid) << "the header cluster";
  EXPECT_EQ(decode_l2_entry(copied_flag | 1, v3).kind, entry_kind::invalid);
  EXPECT_EQ(decode_l2_entry(0x50200, v3).kind, entry_kind::invalid) << "unaligned";
  EXPECT_EQ(decode_l2_entry(0x50002, v3).kind, entry_kind::invalid) << "reserved bit 1";
  EXPECT_EQ(decode_l2_entry(0x50000 | std::uint64_t{1} << 56, v3).kind, entry_kind::invalid);
  EXPECT_EQ(decode_l2_entry(compressed_flag | copied_flag | 0x50000, v3).kind, entry_kind::invalid);
}

TEST(qcow2_l2_entry, compressed_entries_name_the_sectors_their_bytes_touch) {
  for (const unsigned bits : {9U, 12U, 16U, 21U}) {
    const geometry shape{.version = 3, .cluster_bits = bits, .refcount_order = 4};
    std::mt19937_64 random(bits);
    for (int round = 0; round < 2000; ++round) {
      const byte_range host{1 + random() % (std::uint64_t{1} << 40),
                            1 + random() % (shape.cluster_size() - 1)};
      const auto raw = encode_compressed_entry(host, shape);
      ASSERT_TRUE(raw.has_value());
      const l2_entry entry = decode_l2_entry(*raw, shape);
      ASSERT_EQ(entry.kind, entry_kind::compressed);
      ASSERT_EQ(entry.host_offset, host.offset);
      ASSERT_EQ(entry.host_offset + entry.host_length, align_up(host.end(), sector_bytes));
    }
  }
  const geometry huge{.version = 3, .cluster_bits = 21, .refcount_order = 4};
  EXPECT_FALSE(encode_compressed_entry({std::uint64_t{1} << 49, 100}, huge).has_value())
      << "49 bits of offset";
}

constexpr geometry wide{.version = 3, .cluster_bits = 16, .refcount_order = 4, .extended_l2 = true};

TEST(qcow2_extended_l2_entry, subclusters_are_told_apart) {
  const l2_entry entry = decode_l2_entry(
      raw_l2_entry{.word = copied_flag | 0x50000, .allocated = 0x1, .zeroes = 0x80000000}, wide);
  EXPECT_EQ(entry.kind, entry_kind::data);
  EXPECT_TRUE(entry.copied);
  EXPECT_EQ(subcluster_kind(entry, 0), entry_kind::data);
  EXPECT_EQ(subcluster_kind(entry, 1), entry_kind::unallocated);
  EXPECT_EQ(subcluster_kind(entry, 31), entry_kind::zero_allocated);
  const l2_entry bare = decode_l2_entry(raw_l2_entry{.zeroes = 2}, wide);
  EXPECT_EQ(bare.kind, entry_kind::unallocated);
  EXPECT_EQ(subcluster_kind(bare, 1), entry_kind::zero_plain);
  EXPECT_EQ(decode_l2_entry(raw_l2_entry{.zeroes = all_subclusters}, wide).kind, entry_kind::zero_plain);
  EXPECT_EQ(decode_l2_entry(raw_l2_entry{.word = 0x50000, .zeroes = 1}, wide).kind,
            entry_kind::zero_allocated);
}

TEST(qcow2_extended_l2_entry, contradictions_are_invalid) {
  const auto kind = [](std::uint64_t word, std::uint32_t allocated, std::uint32_t zeroes) {
    return decode_l2_entry(raw_l2_entry{.word = word, .allocated = allocated, .zeroes = zeroes}, wide).kind;
  };
  EXPECT_EQ(kind(0x50000, 4, 4), entry_kind::invalid) << "allocated and zero";
  EXPECT_EQ(kind(0, 4, 0), entry_kind::invalid) << "allocated without an offset";
  EXPECT_EQ(kind(copied_flag, 0, 0), entry_kind::invalid) << "the header cluster";
  EXPECT_EQ(kind(0x50001, 1, 0), entry_kind::invalid) << "the zero flag of narrow entries";
  EXPECT_EQ(kind(0x50200, 1, 0), entry_kind::invalid) << "unaligned";
  EXPECT_EQ(kind(compressed_flag | 0x50000, 0, 1), entry_kind::invalid) << "compressed with a bitmap";
  EXPECT_EQ(kind(compressed_flag | 0x50000, 0, 0), entry_kind::compressed);
}

TEST(qcow2_extended_l2_entry, is_stored_as_the_format_says) {
  std::array<std::byte, 16> bytes{};
  const raw_l2_entry entry{.word = copied_flag | 0x50000, .allocated = 0x01020304, .zeroes = 0xf0000000};
  store_l2_entry(bytes.data(), entry, wide);
  EXPECT_EQ(load_l2_entry(bytes.data(), wide), entry);
  // One 64-bit word: allocated in bits 0-31, zero in bits 32-63.
  EXPECT_EQ(load_big<std::uint64_t>(bytes.data() + 8), 0xf000000001020304U);
}

// images.md section 2: where the sector count begins, by cluster size.
TEST(qcow2_l2_entry, compressed_entries_of_every_cluster_size) {
  for (unsigned bits = 9; bits <= 21; ++bits) {
    const geometry shape{.version = 3, .cluster_bits = bits, .refcount_order = 4};
    const unsigned x = 62 - (bits - 8);
    const std::uint64_t offset = 0x123456789;
    const l2_entry one = decode_l2_entry(compressed_flag | offset, shape);
    ASSERT_EQ(one.kind, entry_kind::compressed);
    EXPECT_EQ(one.host_offset, offset);
    EXPECT_EQ(one.host_length, 512 - offset % 512);
    const l2_entry two = decode_l2_entry(compressed_flag | std::uint64_t{1} << x | offset, shape);
    EXPECT_EQ(two.host_length, 1024 - offset % 512);
  }
}

TEST(qcow2_l2_entry, a_compressed_stream_references_every_cluster_it_touches) {
  const geometry shape{.version = 3, .cluster_bits = 9, .refcount_order = 4};
  const std::uint64_t one_more_sector = std::uint64_t{1} << 61;
  EXPECT_EQ(referenced_clusters(decode_l2_entry(compressed_flag | 0x5ff, shape), shape), (cluster_run{2, 1}));
  EXPECT_EQ(referenced_clusters(decode_l2_entry(compressed_flag | one_more_sector | 0x5ff, shape), shape),
            (cluster_run{2, 2}));
}

TEST(qcow2_l1_entry, offsets_flags_and_reserved_bits) {
  EXPECT_EQ(decode_l1_entry(0, v3), std::uint64_t{0});
  EXPECT_EQ(decode_l1_entry(copied_flag | 0x30000, v3), std::uint64_t{0x30000});
  EXPECT_EQ(decode_l1_entry(0x30200, v3), std::nullopt);
  EXPECT_EQ(decode_l1_entry(0x30001, v3), std::nullopt);
  EXPECT_EQ(decode_l1_entry(copied_flag, v3), std::nullopt);
  EXPECT_EQ(decode_l1_entry(compressed_flag | 0x30000, v3), std::nullopt);
}

TEST(qcow2_refcounts, every_width_stores_and_keeps_its_neighbours) {
  std::mt19937_64 random(5);
  for (unsigned order = 0; order <= 6; ++order) {
    const geometry shape{.version = 3, .cluster_bits = 9, .refcount_order = order};
    std::vector<std::byte> block(512);
    std::vector<std::uint64_t> model(shape.refcounts_per_block());
    for (int step = 0; step < 4000; ++step) {
      const std::uint64_t index = random() % model.size();
      model[index] = random() & shape.highest_refcount();
      store_refcount(block.data(), index, order, model[index]);
      const std::uint64_t probe = random() % model.size();
      ASSERT_EQ(load_refcount(block.data(), probe, order), model[probe]) << "order " << order;
    }
  }
}

TEST(qcow2_refcounts, narrow_counts_start_at_the_least_significant_bit) {
  std::array<std::byte, 8> block{};
  store_refcount(block.data(), 0, 0, 1);
  store_refcount(block.data(), 9, 0, 1);
  EXPECT_EQ(block[0], std::byte{0x01});
  EXPECT_EQ(block[1], std::byte{0x02});
  store_refcount(block.data(), 5, 2, 0xa);
  EXPECT_EQ(block[2], std::byte{0xa0});
}

TEST(qcow2_metadata_map, clear_prefix_stops_at_the_first_metadata) {
  metadata_map map;
  map.header = {0, 512};
  map.l1 = {2048, 1024};
  map.l2_tables = cluster_set({8192, 4096});
  EXPECT_EQ(map.clear_prefix({0, 512}), 0U);
  EXPECT_EQ(map.clear_prefix({512, 512}), 512U);
  EXPECT_EQ(map.clear_prefix({512, 8192}), 1536U);
  EXPECT_EQ(map.clear_prefix({3072, 8192}), 1024U);
  EXPECT_EQ(map.clear_prefix({4608, 8192}), 8192U - 4608U);
  EXPECT_FALSE(map.hits_other_than_l2({4096, 512}));
  EXPECT_TRUE(map.hits_other_than_l2({2560, 512}));
  EXPECT_TRUE(cluster_set({512, 1024, 512}).has_duplicates());
}

}  // namespace
}  // namespace weir::qcow2
