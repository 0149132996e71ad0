// Requests done on the spot (disk::read_at_once, write_at_once) beside those that take the general way, against a byte
// array: chains of raw, qcow2 and QED in files in memory, which is where both ways lead to the same bytes.
#include "engine/base/task_group.hpp"
#include "engine/block/disk.hpp"
#include "engine/storage/file_descriptor.hpp"
#include "engine/storage/local_file.hpp"
#include "formats/registry.hpp"
#include "tests/support/run_task.hpp"
#include "tests/support/seeds.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <random>
#include <vector>

namespace weir::test {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t sector = 512;
constexpr std::uint64_t stripe_bytes = 16 * KiB;

class memory_disk {
 public:
  explicit memory_disk(std::uint64_t seed) : random_(seed), content_(stripe_bytes * (1 + draw(12))) {
    const std::size_t depth = 1 + draw(5);
    for (std::size_t index = 0; index < depth; ++index) {
      add_layer(index);
      open();
      for (unsigned batch = 0; batch < 3; ++batch) run_batch();
      close();
    }
  }

  void open() {
    std::vector<std::shared_ptr<layer>> layers;
    for (std::size_t index = media_.size(); index-- > 0;) {
      auto made = std::make_shared<layer>();
      made->image = open_image(index, layers.empty());
      layers.push_back(std::move(made));
    }
    const engine_resources resources{io_.get_executor(), buffers_, workers_, nullptr};
    disk_settings how;
    how.copy_on_read = draw(4) == 0;
    disk_ = std::make_unique<disk>(resources, std::make_unique<chain>(std::move(layers)), how);
  }
  void close() {
    run(io_, disk_->close()).value();
    disk_.reset();
  }

  /// Requests to different stripes, side by side.
  void run_batch() {
    const auto work = [this]() -> task<void> {
      task_group group(io_.get_executor());
      for (std::uint64_t at = 0; at < content_.size(); at += stripe_bytes) {
        const std::uint64_t first = draw(stripe_bytes / sector) * sector + (draw(3) == 0 ? draw(sector) : 0);
        const byte_range range{at + first, 1 + draw(stripe_bytes - first)};
        group.spawn(request(draw(8), range));
      }
      co_await group.join();
    };
    run(io_, work());
  }

  void check() {
    bytes all(content_.size());
    run(io_, disk_->read(0, all)).value();
    ASSERT_EQ(all, content_);
  }

  std::uint64_t at_once = 0;  ///< requests done on the spot

 private:
  struct medium {
    file_descriptor file;
    std::string format;
  };

  std::uint64_t draw(std::uint64_t below) { return random_() % below; }

  std::unique_ptr<storage> open_file(std::size_t index, bool writable) {
    const std::string path = "fd:" + std::to_string(media_[index].file.get());
    const local_file_options how{.writable = writable, .locking = image_locking::off};
    return run(io_, open_local_file(*files_, path, how)).value();
  }
  std::unique_ptr<image> open_image(std::size_t index, bool writable) {
    image_open_options how;
    how.writable = writable;
    how.metadata_cache_bytes = draw(2) == 0 ? 4 * KiB : 1 * MiB;
    return run(io_, formats().find(media_[index].format)->open(open_file(index, writable), how)).value();
  }
  void add_layer(std::size_t index) {
    static constexpr std::array<const char*, 3> names{"qcow2", "qed", "raw"};
    media_.push_back(
        {file_descriptor(::memfd_create("layer", MFD_CLOEXEC)), names[draw(index == 0 ? 3 : 2)]});
    image_create_options how;
    how.virtual_size = content_.size();
    if (index > 0) how.backing = backing_reference{"below", media_[index - 1].format, false};
    if (media_[index].format != "raw") how.options["cluster_size"] = "4096";
    const std::unique_ptr<storage> into = open_file(index, true);
    run(io_, formats().find(media_[index].format)->create(*into, how)).value();
    run(io_, into->close()).value();
  }

  task<void> request(std::uint64_t kind, byte_range range) {
    const auto expected = std::span(content_).subspan(range.offset, range.length);
    if (kind < 3) {
      co_await read(range, expected);
    } else if (kind < 6) {
      const bytes data(range.length, static_cast<std::byte>(1 + draw(255)));
      std::ranges::copy(data, expected.begin());
      co_await write(range, data);
    } else if (kind == 6) {
      std::ranges::fill(expected, std::byte{0});
      const result<void> done = co_await disk_->zero(range, {});
      EXPECT_TRUE(done);
    } else {
      const result<void> done = co_await disk_->flush();
      EXPECT_TRUE(done);
    }
  }
  task<void> read(byte_range range, std::span<const std::byte> expected) {
    bytes found(range.length);
    const bool done = draw(3) > 0 && disk_->read_at_once(range.offset, found);
    at_once += done ? 1 : 0;
    if (!done) {
      const result<void> read = co_await disk_->read(range.offset, found);
      EXPECT_TRUE(read);
    }
    EXPECT_TRUE(std::ranges::equal(found, expected)) << range.offset << "+" << range.length;
  }
  task<void> write(byte_range range, const bytes& data) {
    const bool done = draw(3) > 0 && disk_->write_at_once(range.offset, data, {});
    at_once += done ? 1 : 0;
    if (done) co_return;
    const result<void> written = co_await disk_->write(range.offset, data, {});
    EXPECT_TRUE(written);
  }

  std::mt19937_64 random_;
  bytes content_;
  boost::asio::io_context io_{1};
  buffer_pool buffers_{io_.get_executor(), 16 * MiB};
  worker_pool workers_{io_.get_executor(), 1};
  std::unique_ptr<file_io> files_ = make_file_io(io_.get_executor(), workers_, aio_mode::automatic).value();
  std::vector<medium> media_;  // base first
  std::unique_ptr<disk> disk_;
};

TEST(disk_at_once, both_ways_lead_to_the_same_bytes) {
  std::uint64_t at_once = 0;
  for (const std::uint64_t seed : seeds(150)) {
    SCOPED_TRACE("WEIR_SEED=" + std::to_string(seed));
    memory_disk world(seed);
    for (unsigned life = 0; life < 3; ++life) {
      world.open();
      for (unsigned batch = 0; batch < 6; ++batch) world.run_batch();
      world.check();
      world.close();
      if (testing::Test::HasFailure()) return;
    }
    at_once += world.at_once;
  }
  EXPECT_GT(at_once, 0U);
}

}  // namespace
}  // namespace weir::test
