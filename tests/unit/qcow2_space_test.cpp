// Counting and giving out space at the edges: counts that cannot hold their references, storages that do not grow.
#include "formats/qcow2/qcow2.hpp"
#include "tests/support/hostile_qcow2.hpp"

#include <gtest/gtest.h>

#include <vector>

namespace weir::test {
namespace {

using qcow2_space = hostile_qcow2;

constexpr std::uint64_t dirty_bit = 1;

TEST_F(qcow2_space, an_unclean_image_whose_counts_cannot_hold_their_references_stays_so) {
  disk_ = simulated_disk();
  image_create_options options;
  options.virtual_size = disk_bytes;
  options.options = {{"cluster_size", "4096"}, {"refcount_bits", "1"}};
  simulated_storage into(disk_);
  ASSERT_TRUE(run(io_, qcow2_driver().create(into, options)).has_value());
  const auto opened = open({.writable = true});
  fill(*opened, 0, 2 * cluster, std::byte{1});
  close(*opened);
  const std::uint64_t table = number<std::uint64_t>(number<std::uint64_t>(40)) & ~(std::uint64_t{1} << 63);
  // Two entries name one cluster, both as if they owned it alone: what one writes the other would show.
  put(table + 8, number<std::uint64_t>(table));
  put(72, number<std::uint64_t>(72) | dirty_bit);
  const auto refused = try_open({.writable = true});
  ASSERT_FALSE(refused.has_value());
  EXPECT_TRUE(refused.error().what.contains("weir check")) << refused.error().what;
  EXPECT_EQ(number<std::uint64_t>(72) & dirty_bit, dirty_bit);
  expect_readable({});
}

TEST_F(qcow2_space, what_a_cluster_held_behind_the_end_is_gone_when_the_disk_grows_again) {
  disk_ = simulated_disk();
  image_create_options options;
  options.virtual_size = disk_bytes;
  options.options = {{"cluster_size", "65536"}, {"extended_l2", "on"}};
  simulated_storage into(disk_);
  ASSERT_TRUE(run(io_, qcow2_driver().create(into, options)).has_value());
  const auto opened = open({.writable = true});
  fill(*opened, 0, 2 * 65536, std::byte{1});
  // The end lies inside the fifth subcluster, which stays as it is.
  ASSERT_TRUE(run(io_, opened->resize(9 * KiB)).has_value());
  ASSERT_TRUE(run(io_, opened->resize(disk_bytes)).has_value());
  const byte_range kept{0, 10 * KiB};
  const byte_range gained = range_between(kept.end(), 65536);
  EXPECT_EQ(run(io_, opened->map(kept, map_effort::status))->extent.kind, extent_kind::data);
  EXPECT_EQ(run(io_, opened->map(gained, map_effort::status))->extent.kind, extent_kind::zero);
  EXPECT_EQ(run(io_, opened->map(gained, map_effort::status))->extent.length, gained.length);
  close(*opened);
}

TEST_F(qcow2_space, shortening_and_emptying_shorten_the_file) {
  const auto opened = open({.writable = true});
  fill(*opened, 0, MiB, std::byte{1});
  EXPECT_TRUE(run(io_, opened->flush()).has_value());
  EXPECT_GT(disk_.size(), MiB);
  ASSERT_TRUE(run(io_, opened->resize(512 * KiB)).has_value());
  EXPECT_LT(disk_.size(), 600 * KiB);
  ASSERT_TRUE(run(io_, opened->make_empty()).has_value());
  EXPECT_LT(disk_.size(), 64 * KiB);
  close(*opened);
}

class qcow2_fixed_space : public hostile_qcow2 {
 protected:
  static constexpr std::uint64_t clusters = 64;

  qcow2_fixed_space() {
    const std::vector<std::byte> last(cluster);
    disk_.load((clusters - 1) * cluster, last);
    simulated_storage_options fixed;
    fixed.capabilities.can_grow = false;
    auto opened = run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(disk_, fixed),
                                               {.writable = true, .metadata_cache_bytes = 0}));
    EXPECT_TRUE(opened.has_value());
    image_ = std::move(*opened);
  }

  /// Writes guest clusters from `first` on until there is no space; returns how many.
  std::uint64_t write_from(std::uint64_t first) {
    image_driver driver(*image_);
    const bytes data(cluster, std::byte{3});
    std::uint64_t done = 0;
    while (run(io_, driver.write((first + done) * cluster, data))) ++done;
    return done;
  }

  std::unique_ptr<image> image_;
};

TEST_F(qcow2_fixed_space, all_that_was_freed_can_be_used_again) {
  const std::uint64_t held = write_from(0);
  ASSERT_GT(held, 40U);
  const byte_range middle{10 * cluster, 10 * cluster};
  ASSERT_TRUE(run(io_, image_->discard(middle)).has_value());
  ASSERT_TRUE(run(io_, image_->flush()).has_value());
  ASSERT_TRUE(run(io_, image_->flush()).has_value());
  // Its tables take the beginning of the freed run by a way of their own: the table's copy and two clusters.
  snapshot_info wanted;
  wanted.name = "one";
  ASSERT_TRUE(run(io_, image_->snapshots()->create(wanted)).has_value());
  EXPECT_EQ(write_from(100), 7U);
  EXPECT_TRUE(run(io_, image_->close()).has_value());
}

}  // namespace
}  // namespace weir::test
