// What a disk owes to others beside its content: turns for other tasks, the engine's thread for the engine, speed
// where only speed was asked for, and no more I/O than a walk down its layers.
#include "engine/block/disk.hpp"

#include "engine/block/gather.hpp"
#include "engine/storage/memory_storage.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "formats/raw/raw.hpp"
#include "tests/support/run_task.hpp"
#include "tests/support/watched_storage.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <random>
#include <thread>
#include <utility>
#include <vector>

namespace weir {
namespace {

using test::run;
using test::storage_watch;
using test::watched_storage;

/// One layer that is encoded throughout; remembers which thread decoded.
class encoded_image final : public image {
 public:
  static constexpr std::uint64_t unit_bytes = 64 * KiB;
  static inline std::thread::id decoded_by;

  std::string_view format() const noexcept override { return "encoded"; }
  std::uint64_t virtual_size() const noexcept override { return unit_bytes; }
  std::uint64_t grain() const noexcept override { return unit_bytes; }
  bool writable() const noexcept override { return false; }
  bool zeroes_fast() const noexcept override { return false; }
  const std::optional<backing_reference>& backing() const noexcept override { return backing_; }
  std::vector<image_fact> facts() const override { return {}; }
  snapshot_store* snapshots() noexcept override { return nullptr; }
  bitmap_store* bitmaps() noexcept override { return nullptr; }
  storage& storage_at(std::uint8_t) noexcept override { return file_; }
  std::optional<unit_encoding> encoding() const noexcept override { return std::nullopt; }

 private:
  static result<void> decode(std::span<const std::byte>, std::span<std::byte> decoded) {
    decoded_by = std::this_thread::get_id();
    std::ranges::fill(decoded, std::byte{7});
    return {};
  }
  task<result<extent>> do_map(byte_range range, map_effort) override { co_return where(range); }
  std::optional<result<extent>> do_try_map(byte_range range, map_effort) override { return where(range); }
  static extent where(byte_range range) {
    extent found;
    found.kind = extent_kind::encoded;
    found.length = range.length;
    found.unit = {.guest = {0, unit_bytes}, .host = {0, 512}, .decode = &decode};
    return found;
  }
  task<result<allocation>> do_allocate(byte_range) override { co_return errc::read_only; }
  task<result<allocation>> do_allocate_encoded(byte_range, std::uint64_t) override {
    co_return errc::read_only;
  }
  task<result<void>> do_publish(const allocation&) override { co_return errc::read_only; }
  task<result<void>> do_release(const allocation&) override { co_return errc::read_only; }
  task<result<void>> do_zero(byte_range, zero_mode) override { co_return errc::read_only; }
  task<result<void>> do_discard(byte_range) override { co_return errc::read_only; }
  task<result<void>> do_flush() override { co_return result<void>{}; }
  task<result<void>> do_set_backing(std::optional<backing_reference>) override { co_return errc::read_only; }
  task<outcome<void>> do_resize(std::uint64_t, std::uint64_t) override { co_return outcome<void>{}; }
  task<outcome<void>> do_make_empty() override { co_return outcome<void>{}; }
  task<result<void>> do_close() override { return file_.close(); }

  memory_storage file_{"encoded", 512};
  std::optional<backing_reference> backing_;
};

class disk_test : public testing::Test {
 protected:
  ~disk_test() override {
    if (disk_) run(io_, disk_->close()).value();
  }

  void add_layer(std::unique_ptr<image> made) {
    auto next = std::make_shared<layer>();
    next->image = std::move(made);
    layers_.push_back(std::move(next));
  }
  /// An empty qcow2 layer with clusters of `cluster_bytes`, over all that were added before.
  void add_qcow2(std::uint64_t size, std::string cluster_bytes, bool writable) {
    auto file = std::make_unique<memory_storage>("layer.qcow2");
    image_create_options how;
    how.virtual_size = size;
    how.options["cluster_size"] = std::move(cluster_bytes);
    how.backing = backing_reference{"below", "qcow2", false};
    run(io_, qcow2_driver().create(*file, how)).value();
    auto watched = std::make_unique<watched_storage>(std::move(file), watch_);
    add_layer(run(io_, qcow2_driver().open(std::move(watched), {.writable = writable})).value());
  }
  void open(disk_settings how = {}) {
    std::ranges::reverse(layers_);
    const engine_resources resources{io_.get_executor(), buffers_, workers_, nullptr};
    disk_ = std::make_unique<disk>(resources, std::make_unique<chain>(std::move(layers_)), how);
  }

  boost::asio::io_context io_;
  buffer_pool buffers_{io_.get_executor(), 16 * MiB};
  worker_pool workers_{io_.get_executor(), 1};
  storage_watch watch_;
  std::vector<std::shared_ptr<layer>> layers_;  // base first
  std::unique_ptr<disk> disk_;
};

TEST_F(disk_test, a_long_status_lets_others_run) {
  constexpr std::uint64_t size = MiB;
  add_qcow2(size, "512", true);
  open();
  // From the end to the start, so that no two neighbours are one extent.
  const std::vector<std::byte> data(512, std::byte{1});
  for (std::uint64_t at = size; at > 0; at -= 512) run(io_, disk_->write(at - 512, data, {})).value();
  unsigned turns = 0;
  bool ended = false;
  std::function<void()> tick = [&] {
    ++turns;
    if (!ended) run_later(io_.get_executor(), tick);
  };
  run_later(io_.get_executor(), tick);
  const auto runs = run(io_, disk_->status({0, size}, 100));
  ended = true;
  io_.restart();
  io_.poll();
  EXPECT_EQ(runs.value(), (std::vector<status_run>{{size, 1, false}}));
  EXPECT_GE(turns, size / 512 / looks_per_turn);
}

TEST_F(disk_test, units_are_decoded_by_workers_also_without_a_descriptor) {
  add_layer(std::make_unique<encoded_image>());
  disk_settings how;
  how.read_only = true;
  open(how);
  std::vector<std::byte> bytes(encoded_image::unit_bytes);
  const byte_range whole{0, bytes.size()};
  const auto found = run(io_, disk_->read_and_scan(whole, bytes, 4096));
  EXPECT_EQ(found.value(), (std::vector<byte_range>{whole}));
  EXPECT_EQ(bytes, std::vector<std::byte>(bytes.size(), std::byte{7}));
  EXPECT_NE(encoded_image::decoded_by, std::this_thread::get_id());
}

TEST_F(disk_test, fast_zeroes_only_are_refused_where_zeros_would_be_written) {
  auto file = std::make_unique<watched_storage>(std::make_unique<memory_storage>("disk.raw", MiB), watch_);
  add_layer(run(io_, raw_driver().open(std::move(file), {.writable = true})).value());
  open();
  const std::vector<std::byte> data(64 * KiB, std::byte{1});
  run(io_, disk_->write(0, data, {})).value();
  watch_.refuses_zero = true;
  watch_.writes = 0;
  const byte_range range{0, data.size()};
  const auto refused = run(io_, disk_->zero(range, {.fast_only = true}));
  EXPECT_EQ(refused.error(), make_error_code(errc::not_supported));
  EXPECT_EQ(watch_.writes, 0U);
  run(io_, disk_->zero(range, {})).value();
  std::vector<std::byte> bytes(data.size(), std::byte{1});
  run(io_, disk_->read(0, bytes)).value();
  EXPECT_EQ(bytes, std::vector<std::byte>(data.size()));
}

/// A chain of qcow2 layers with small tables, opened twice: what one copy reads can be held against the other.
class twin_chains : public disk_test {
 protected:
  static constexpr std::uint64_t size = 4 * MiB;
  static constexpr std::size_t depth = 6;

  struct twin {
    storage_watch watch;
    std::unique_ptr<chain> layers;
  };

  twin_chains() {
    for (std::size_t index = 0; index < depth; ++index) {
      media_.push_back(std::make_unique<simulated_disk>(0, power_));
      simulated_storage file(*media_.back());
      image_create_options how;
      how.virtual_size = size;
      how.options["cluster_size"] = "512";
      how.backing = backing_reference{"below", "qcow2", false};
      run(io_, qcow2_driver().create(file, how)).value();
      add_layer(open_layer(index, true, watch_));
      open();
      for (unsigned count = 0; count < 100; ++count) {
        const std::vector<std::byte> data(512 * (1 + random_() % 4), std::byte{1});
        run(io_, disk_->write(random_() % (size / 512 - 4) * 512, data, {})).value();
      }
      run(io_, disk_->close()).value();
      disk_.reset();
      layers_.clear();
    }
  }
  ~twin_chains() override {
    for (twin& each : twins_) run(io_, each.layers->close()).value();
  }

  std::unique_ptr<image> open_layer(std::size_t index, bool writable, storage_watch& watch) {
    auto file = std::make_unique<simulated_storage>(*media_[index]);
    auto watched = std::make_unique<watched_storage>(std::move(file), watch);
    return run(io_, qcow2_driver().open(std::move(watched), {.writable = writable})).value();
  }
  void open_twins() {
    for (twin& each : twins_) {
      for (std::size_t index = depth; index-- > 0;) {
        auto next = std::make_shared<layer>();
        next->image = open_layer(index, index == depth - 1, each.watch);
        layers_.push_back(std::move(next));
      }
      each.layers = std::make_unique<chain>(std::exchange(layers_, {}));
      each.watch = {};
    }
  }
  /// Who owns the first byte, asking one layer after the other.
  std::size_t walk(byte_range range) {
    const chain& layers = *twins_[1].layers;
    for (std::size_t at = 0; at < depth; ++at) {
      const auto found = run(io_, layers.at(at)->image->map(range, map_effort::locate));
      if (found.value().extent.kind != extent_kind::unallocated) return at;
    }
    return depth;
  }

  std::mt19937_64 random_{1};
  power_supply power_;
  std::vector<std::unique_ptr<simulated_disk>> media_;  // base first
  std::array<twin, 2> twins_;
};

TEST_F(twin_chains, remembering_owners_costs_no_more_reads_than_walking) {
  open_twins();
  for (unsigned count = 0; count < 2000; ++count) {
    const byte_range range{random_() % (size / 512 - 8) * 512, 512 * (1 + random_() % 8)};
    const auto found = run(io_, twins_[0].layers->lookup(range, {}, map_effort::locate));
    ASSERT_EQ(found.value().depth, walk(range)) << range.offset;
    ASSERT_LE(twins_[0].watch.read_bytes, twins_[1].watch.read_bytes) << range.offset;
  }
  EXPECT_GT(twins_[1].watch.read_bytes, 0U);
}

}  // namespace
}  // namespace weir
