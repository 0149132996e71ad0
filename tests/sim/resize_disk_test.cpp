// A disk grows over a longer backing image, and the power goes at every write boundary: it has its old size or the new
// one, and never shows what the backing image or its own last cluster hold behind the old end.
#include "engine/copy/resize_disk.hpp"

#include "engine/base/buffer_pool.hpp"
#include "engine/base/worker_pool.hpp"
#include "engine/block/chain.hpp"
#include "engine/block/disk.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/registry.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace weir::test {
namespace {

constexpr std::uint64_t backing_bytes = 200 * KiB;
constexpr std::byte of_backing{0xba};
constexpr std::byte of_top{0x70};

struct variant {
  std::string name;
  std::string format;
  std::map<std::string, std::string> options;
  std::uint64_t size;      ///< before
  bool last_is_own;        ///< the cluster at the end is allocated
  std::uint64_t new_size;  ///< after
};

class growing_disk {
 public:
  explicit growing_disk(const variant& tested) : tested_(tested), base_(0, steady_), top_(0, power_) {
    make("raw", {}, base_, backing_bytes, {});
    base_.load(0, std::vector<std::byte>(backing_bytes, of_backing));
    make(tested.format, tested.options, top_, tested.size, backing_reference{"base", "raw", false});
    if (tested.last_is_own) {
      const auto filled = open(top_);
      const std::vector<std::byte> sector(512, of_top);
      EXPECT_TRUE(run(io_, filled->write(tested.size - 512, sector, {})).has_value());
      EXPECT_TRUE(run(io_, filled->close()).has_value());
    }
    base_.settle_all();
    top_.settle_all();
  }

  /// True if it was done before the power went.
  bool grow(std::uint64_t cut) {
    const auto grown = open(top_);
    power_.cut_after(cut);
    static_cast<void>(run(io_, resize_disk(*grown, tested_.new_size, preallocation::off)));
    static_cast<void>(run(io_, grown->close()));
    return power_.on();
  }

  void expect_old_or_new(std::uint64_t survival) {
    simulated_disk survivor = top_.after_power_loss(survival);
    const auto found = open(survivor);
    ASSERT_TRUE(found->size() == tested_.size || found->size() == tested_.new_size) << found->size();
    std::vector<std::byte> bytes(static_cast<std::size_t>(found->size()));
    ASSERT_TRUE(run(io_, found->read(0, bytes)).has_value());
    std::vector<std::byte> wanted(bytes.size());
    std::fill_n(wanted.begin(), tested_.size, of_backing);
    if (tested_.last_is_own) std::fill_n(wanted.begin() + static_cast<long>(tested_.size) - 512, 512, of_top);
    const auto wrong = std::ranges::mismatch(bytes, wanted);
    EXPECT_EQ(wrong.in1, bytes.end()) << "of " << bytes.size() << " bytes, number "
                                      << wrong.in1 - bytes.begin() << " is " << static_cast<int>(*wrong.in1);
    EXPECT_TRUE(run(io_, found->close()).has_value());
  }

 private:
  void make(const std::string& format, std::map<std::string, std::string> options, simulated_disk& on,
            std::uint64_t size, std::optional<backing_reference> backing) {
    simulated_storage into(on);
    image_create_options wanted;
    wanted.virtual_size = size;
    wanted.options.insert(options.begin(), options.end());
    wanted.backing = std::move(backing);
    const outcome<void> made = run(io_, formats().find(format)->create(into, wanted));
    ASSERT_TRUE(made.has_value()) << made.error().what;
  }

  std::shared_ptr<layer> open_layer(const std::string& format, simulated_disk& on, bool writable) {
    image_open_options how;
    how.writable = writable;
    auto opened = run(io_, formats().find(format)->open(std::make_unique<simulated_storage>(on), how));
    EXPECT_TRUE(opened.has_value());
    auto made = std::make_shared<layer>();
    made->model.format = format;
    made->image = std::move(*opened);
    return made;
  }

  std::unique_ptr<disk> open(simulated_disk& top) {
    std::vector<std::shared_ptr<layer>> layers{open_layer(tested_.format, top, true),
                                               open_layer("raw", base_, false)};
    const engine_resources resources{io_.get_executor(), buffers_, workers_, nullptr};
    disk_settings how;
    how.name = "disk";
    return std::make_unique<disk>(resources, std::make_unique<chain>(std::move(layers)), how);
  }

  boost::asio::io_context io_;
  buffer_pool buffers_{io_.get_executor(), 16 * MiB};
  worker_pool workers_{io_.get_executor(), 0};
  variant tested_;
  power_supply steady_;
  power_supply power_;
  simulated_disk base_;
  simulated_disk top_;
};

class resize_power_loss : public testing::TestWithParam<variant> {};

TEST_P(resize_power_loss, shows_nothing_from_behind_the_old_end) {
  for (std::uint64_t cut = 0;; ++cut) {
    SCOPED_TRACE("cut after " + std::to_string(cut));
    growing_disk tested(GetParam());
    const bool ended = tested.grow(cut);
    for (std::uint64_t survival = 0; survival < 6; ++survival) {
      SCOPED_TRACE("survival " + std::to_string(survival));
      ASSERT_NO_FATAL_FAILURE(tested.expect_old_or_new(survival));
      ASSERT_FALSE(HasFailure());
    }
    if (ended) break;
  }
}

const std::map<std::string, std::string> small_clusters{{"cluster_size", "4096"}};
const std::map<std::string, std::string> subclusters{{"cluster_size", "16384"}, {"extended_l2", "on"}};
const std::map<std::string, std::string> tiny_clusters{{"cluster_size", "512"}};

INSTANTIATE_TEST_SUITE_P(
    formats, resize_power_loss,
    testing::Values(variant{"unallocated_end", "qcow2", small_clusters, 50 * KiB, false, 180 * KiB},
                    variant{"past_the_backing_image", "qcow2", small_clusters, 50 * KiB, true, 300 * KiB},
                    variant{"in_one_cluster", "qcow2", small_clusters, 50 * KiB, false, 51 * KiB},
                    variant{"subclusters", "qcow2", subclusters, 50 * KiB + 512, false, 180 * KiB},
                    variant{"own_subcluster", "qcow2", subclusters, 50 * KiB + 512, true, 300 * KiB},
                    variant{"larger_l1_table", "qcow2", tiny_clusters, 10 * KiB, false, 180 * KiB},
                    variant{"qed", "qed", small_clusters, 50 * KiB, false, 180 * KiB},
                    variant{"qed_own_cluster", "qed", small_clusters, 50 * KiB, true, 300 * KiB}),
    [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace weir::test
