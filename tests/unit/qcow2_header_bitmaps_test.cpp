// Changing the bitmaps that a header names: whole after every step, whatever else is in the header stays.
#include "engine/base/endian.hpp"
#include "formats/qcow2/header_bitmaps.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace weir::qcow2 {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t file_size = 64 * MiB;

header basic(unsigned cluster_bits) {
  header made;
  made.shape.cluster_bits = cluster_bits;
  made.virtual_size = 1 * MiB;
  made.refcount_table_offset = made.shape.cluster_size();
  made.refcount_table_clusters = 1;
  made.l1_offset = 3 * made.shape.cluster_size();
  made.l1_count = static_cast<std::uint32_t>(made.virtual_size / made.shape.table_span() + 1);
  return made;
}

struct reading {
  header head;
  std::optional<bitmaps_place> place;  // what the autoclear bit vouches for
};

/// What a reader of this cluster finds; fails the test if it is no header.
reading read(const bytes& cluster) {
  const outcome<header> parsed = parse_header(cluster, file_size, "x");
  EXPECT_TRUE(parsed.has_value()) << (parsed ? "" : parsed.error().what);
  if (!parsed) return {};
  reading made{.head = *parsed, .place = std::nullopt};
  const extension* found = parsed->find(bitmaps_extension_type);
  if ((parsed->autoclear & bitmaps_bit) == 0) return made;
  EXPECT_NE(found, nullptr) << "the bit vouches for nothing";
  if (found == nullptr) return made;
  const auto data = std::span(cluster).subspan(found->data.offset, found->data.length);
  const auto place = parse_bitmaps_extension(data, parsed->shape, file_size, "x");
  EXPECT_TRUE(place.has_value());
  if (place) made.place = *place;
  return made;
}

/// Extensions that are not ours, as their bytes.
std::vector<bytes> others(const bytes& cluster, const header& head) {
  std::vector<bytes> found;
  for (const extension& each : head.extensions) {
    const bool ours = each.type == bitmaps_extension_type || each.type == filler_extension ||
                      each.type == feature_names_extension;
    if (!ours) {
      found.emplace_back(cluster.begin() + static_cast<std::ptrdiff_t>(each.begin()),
                         cluster.begin() + static_cast<std::ptrdiff_t>(each.end()));
    }
  }
  return found;
}

/// Applies the change step by step; false if there is no room.
bool change(bytes& cluster, const std::optional<bitmaps_place>& wanted) {
  const reading before = read(cluster);
  const std::vector<bytes> kept = others(cluster, before.head);
  const auto steps = plan_bitmaps_change(cluster, before.head, wanted);
  if (!steps) {
    EXPECT_EQ(steps.error(), error_code(errc::name_too_long));
    return false;
  }
  for (const header_step& step : *steps) {
    EXPECT_EQ(step.offset / sector_bytes, (step.offset + step.bytes.size() - 1) / sector_bytes);
    std::ranges::copy(step.bytes, cluster.begin() + static_cast<std::ptrdiff_t>(step.offset));
    const reading now = read(cluster);
    EXPECT_TRUE(!now.place || now.place == before.place || now.place == wanted) << "neither old nor new";
    EXPECT_EQ(now.head.backing, before.head.backing);
    EXPECT_EQ(now.head.incompatible, before.head.incompatible);
    EXPECT_TRUE(others(cluster, now.head) == kept) << "another extension was lost";
  }
  EXPECT_EQ(read(cluster).place, wanted);
  return true;
}

void append_extension(bytes& cluster, std::uint32_t type, std::size_t length) {
  const reading now = read(cluster);
  const std::size_t at = static_cast<std::size_t>(now.head.extensions_end) - 8;
  store_big(cluster.data() + at, type);
  store_big(cluster.data() + at + 4, static_cast<std::uint32_t>(length));
  std::fill_n(cluster.begin() + static_cast<std::ptrdiff_t>(at + 8), length, std::byte{0x5a});
}

std::optional<bitmaps_place> draw_place(std::mt19937_64& random, std::uint64_t cluster_size) {
  if (random() % 4 == 0) return std::nullopt;
  const auto count = static_cast<std::uint32_t>(1 + random() % 50);
  return bitmaps_place{count, {cluster_size * (5 + random() % 20), count * std::uint64_t{64}}};
}

TEST(qcow2_header_bitmaps, changes_are_whole_at_every_step) {
  std::mt19937_64 random(3);
  int done = 0;
  for (int round = 0; round < 3000 && !testing::Test::HasFailure(); ++round) {
    header wanted = basic(9 + static_cast<unsigned>(random() % 5));
    const std::size_t name_length = random() % 3 == 0 ? 0 : 1 + random() % 400;
    if (name_length > 0) {
      wanted.backing = backing_reference{.name = std::string(name_length, 'n'), .format = {}};
      if (random() % 2 == 0) wanted.backing->format = "qcow2";
    }
    const result<bytes> laid_out = lay_out_header(wanted);
    if (!laid_out) continue;
    bytes cluster = *laid_out;
    // Extensions of others, as many as there is room for before the cluster's end.
    while (name_length == 0 && cluster.size() > 1024 && random() % 3 != 0) {
      if (read(cluster).head.extensions_end + 120 > cluster.size()) break;
      append_extension(cluster, 0x1234, random() % 12 * 8);
    }
    for (int step = 0; step < 6; ++step) {
      done += change(cluster, draw_place(random, wanted.shape.cluster_size())) ? 1 : 0;
    }
  }
  EXPECT_GT(done, 10000);
}

TEST(qcow2_header_bitmaps, replacing_and_removing_take_one_step) {
  bytes cluster = *lay_out_header(basic(16));
  const bitmaps_place first{1, {5 << 16, 64}};
  const bitmaps_place second{2, {7 << 16, 128}};
  ASSERT_TRUE(change(cluster, first));
  EXPECT_EQ(plan_bitmaps_change(cluster, read(cluster).head, second)->size(), 1U);
  EXPECT_EQ(plan_bitmaps_change(cluster, read(cluster).head, std::nullopt)->size(), 1U);
}

TEST(qcow2_header_bitmaps, a_full_header_is_refused) {
  header wanted = basic(9);
  wanted.backing = backing_reference{.name = std::string(380, 'n'), .format = {}};
  bytes cluster = *lay_out_header(wanted);
  const bytes before = cluster;
  EXPECT_FALSE(change(cluster, bitmaps_place{1, {5 << 9, 64}}));
  EXPECT_TRUE(cluster == before);
}

}  // namespace
}  // namespace weir::qcow2
