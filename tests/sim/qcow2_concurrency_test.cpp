// Many tasks on one qcow2 image, in virtual time, with slow storage, errors and power loss.
//
// Each writer owns a region of whole grains and changes only that; readers read anywhere; flushers flush. The
// oracle keeps the history of every sector, so that a read may see what was there at any time while it ran,
// and a disk after a power loss what was there at any time since the last flush began. A cluster reused too
// early shows as another region's value, a pointer written too early as a value from nowhere.
#include "engine/base/task_group.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/qcow2_checker.hpp"
#include "tests/support/qcow2_world.hpp"
#include "tests/support/seeds.hpp"
#include "tests/support/simulation.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace weir::test {
namespace {

using tag = sector_oracle::tag;

class concurrent_world {
 public:
  explicit concurrent_world(std::uint64_t seed)
      : random_(seed), clock_(io_.get_executor()), disk_(0, power_) {
    options_.options["cluster_size"] = std::to_string(512U << draw(4));
    grain_ = std::strtoull(options_.options["cluster_size"].c_str(), nullptr, 10);
    const bool subclusters = draw(3) == 0;
    if (subclusters) {
      options_.options["cluster_size"] = "16384";
      options_.options["extended_l2"] = "on";
      grain_ = 512;
    }
    if (draw(4) == 0 && !subclusters)
      options_.options["compat"] = "0.10";
    else
      options_.options["refcount_bits"] = std::to_string(1U << draw(7));
    region_ = grain_ * (4 + draw(40));
    options_.virtual_size = region_ * writers;
    description_ = "WEIR_SEED=" + std::to_string(seed) + " grain " + std::to_string(grain_);
    history_.resize(static_cast<std::size_t>(options_.virtual_size / world_sector), {{0}, 0, 0});
    simulated_storage into(disk_);
    const outcome<void> created = run_simulation(io_, clock_, qcow2_driver().create(into, options_));
    if (!created) throw std::logic_error(created.error().what);
    disk_.settle_all();
  }

  const std::string& description() const { return description_; }
  power_supply& power() { return power_; }
  simulated_disk& disk() { return disk_; }

  /// Opens the image on slow storage and lets everybody work.
  void live(int steps) {
    simulated_storage_options slow{.clock = &clock_,
                                   .shortest_latency = std::chrono::microseconds(1),
                                   .longest_latency = std::chrono::microseconds(200),
                                   .seed = random_(),
                                   .fickle_discard = true};
    const std::size_t cache = draw(2) == 0 ? 0 : std::size_t{1} << 20;
    auto opened = run_simulation(io_, clock_,
                                 qcow2_driver().open(std::make_unique<simulated_storage>(disk_, slow),
                                                     {.writable = true, .metadata_cache_bytes = cache}));
    if (!opened) {
      ASSERT_FALSE(power_.on()) << opened.error().what;
      return;
    }
    image_ = std::move(*opened);
    driver_.emplace(*image_);
    run_simulation(io_, clock_, everybody(steps));
    disk_.clear_faults();
    disk_.set_error_rate(0, 1);
    if (power_.on()) {
      const result<void> checked = run_simulation(io_, clock_, check(0, history_.size()));
      EXPECT_TRUE(checked.has_value()) << checked.error().message();
    }
    driver_.reset();
    const result<void> closed = run_simulation(io_, clock_, image_->close());
    EXPECT_TRUE(closed.has_value() || !power_.on()) << closed.error().message();
    image_.reset();
  }

  /// A first life without faults, after which some COPIED flags are lost.
  void prepare() {
    if (draw(2) == 0) return;
    live(20);
    disk_.settle_all();
    for (sector_history& each : history_) each.durable = each.complete;
    forget_copied(disk_, random_);
    forgetful_ = true;
  }
  bool is_sound(const qcow2_report& report) const {
    return forgetful_ ? report.errors.empty() && report.leaked_clusters == 0 : report.is_clean();
  }

  void expect_survival(std::uint64_t survival) {
    simulated_disk survivor = disk_.after_power_loss(survival);
    const qcow2_report report = check_qcow2(qcow2_world::bytes_of(survivor));
    ASSERT_TRUE(report.errors.empty()) << report.text();
    auto opened = run_simulation(
        io_, clock_, qcow2_driver().open(std::make_unique<simulated_storage>(survivor), {.writable = false}));
    ASSERT_TRUE(opened.has_value()) << opened.error().what;
    std::vector<std::byte> all(history_.size() * world_sector);
    image_driver driver(**opened);
    ASSERT_TRUE(run_simulation(io_, clock_, driver.read(0, all)).has_value());
    for (std::size_t sector = 0; sector < history_.size(); ++sector) {
      const tag found = sector_oracle::read(std::span(all).subspan(sector * world_sector, world_sector));
      ASSERT_TRUE(seen_since(sector, history_[sector].durable, found))
          << "sector " << sector << " holds " << found;
    }
    EXPECT_TRUE(run_simulation(io_, clock_, (*opened)->close()).has_value());
  }

 private:
  static constexpr std::uint64_t writers = 4;

  struct sector_history {
    std::vector<tag> values;   // in the order the changes began
    std::size_t complete = 0;  // what stands at least since the last completed change
    std::size_t durable = 0;   // and since the last flush began
  };

  std::uint64_t draw(std::uint64_t below) { return random_() % below; }

  bool seen_since(std::size_t sector, std::size_t index, tag value) const {
    const std::vector<tag>& values = history_[sector].values;
    return std::find(values.begin() + static_cast<std::ptrdiff_t>(index), values.end(), value) !=
           values.end();
  }

  task<void> everybody(int steps) {
    task_group group(io_.get_executor());
    for (std::uint64_t index = 0; index < writers; ++index) group.spawn(write_region(index, steps));
    for (int index = 0; index < 2; ++index) group.spawn(read_anywhere(steps));
    for (int index = 0; index < 3; ++index) group.spawn(read_slowly(steps / 2));
    for (int index = 0; index < 2; ++index) group.spawn(flush_now_and_then(steps / 2));
    co_await group.join();
  }

  /// The sectors of a random range in one writer's region.
  byte_range choose(std::uint64_t region) {
    const std::uint64_t first = draw(region_ / world_sector);
    const std::uint64_t most = std::min<std::uint64_t>(region_ / world_sector - first, 30);
    return {region * region_ + first * world_sector, (1 + draw(most)) * world_sector};
  }

  task<void> write_region(std::uint64_t region, int steps) {
    for (int step = 0; step < steps && power_.on(); ++step) {
      const byte_range range = choose(region);
      switch (draw(6)) {
        case 0:
          co_await zero(range);
          break;
        case 1:
        case 2:
          co_await discard(range);
          break;
        default:
          co_await write(range);
      }
      const result<void> checked = co_await check(range.offset / world_sector, range.end() / world_sector);
      static_cast<void>(checked);
    }
  }

  void begin_change(byte_range range, const std::function<tag(std::uint64_t)>& value) {
    for (std::uint64_t at = range.offset; at < range.end(); at += world_sector) {
      history_[static_cast<std::size_t>(at / world_sector)].values.push_back(value(at));
    }
  }
  void end_change(byte_range range, const result<void>& done) {
    if (!done) return;
    for (std::uint64_t at = range.offset; at < range.end(); at += world_sector) {
      sector_history& each = history_[static_cast<std::size_t>(at / world_sector)];
      each.complete = each.values.size() - 1;
    }
  }

  task<void> write(byte_range range) {
    std::vector<std::byte> data(static_cast<std::size_t>(range.length));
    begin_change(range, [&](std::uint64_t at) {
      sector_oracle::fill(std::span(data).subspan(static_cast<std::size_t>(at - range.offset), world_sector),
                          ++last_tag_);
      return last_tag_;
    });
    const result<void> done = co_await driver_->write(range.offset, data);
    end_change(range, done);
  }

  task<void> zero(byte_range range) {
    const zero_mode mode = draw(2) == 0 ? zero_mode::may_punch : zero_mode::keep_allocated;
    begin_change(range, [](std::uint64_t) { return tag{0}; });
    const result<void> done = co_await driver_->zero(range, mode);
    end_change(range, done);
  }

  task<void> discard(byte_range range) {
    const byte_range whole = driver_->whole_grains(range);
    begin_change(whole, [](std::uint64_t) { return tag{0}; });
    const result<byte_range> done = co_await driver_->discard(range);
    // Zero or as before: either may be read from now on, and the oracle keeps both.
    static_cast<void>(done);
  }

  /// Every sector holds something that was there while the read ran.
  task<result<void>> check(std::uint64_t first, std::uint64_t end) {
    std::vector<std::size_t> complete;
    for (std::uint64_t sector = first; sector < end; ++sector) complete.push_back(history_[sector].complete);
    std::vector<std::byte> data(static_cast<std::size_t>((end - first) * world_sector));
    const result<void> got = co_await driver_->read(first * world_sector, data);
    if (!got) co_return got.error();
    for (std::uint64_t sector = first; sector < end; ++sector) {
      const auto bytes =
          std::span(data).subspan(static_cast<std::size_t>((sector - first) * world_sector), world_sector);
      const tag found = sector_oracle::read(bytes);
      EXPECT_TRUE(seen_since(sector, complete[sector - first], found))
          << "sector " << sector << " reads " << found;
    }
    co_return result<void>{};
  }

  task<void> read_anywhere(int steps) {
    for (int step = 0; step < steps * 2 && power_.on(); ++step) {
      const byte_range range = choose(draw(writers));
      const result<void> checked = co_await check(range.offset / world_sector, range.end() / world_sector);
      static_cast<void>(checked);
    }
  }

  /// Keeps what it was told for a while before it reads there: the pin must hold the host range.
  task<void> read_slowly(int steps) {
    for (int step = 0; step < steps && power_.on(); ++step) {
      const byte_range range = choose(draw(writers));
      std::vector<std::size_t> complete;
      const std::uint64_t first = range.offset / world_sector;
      for (std::uint64_t at = first; at < range.end() / world_sector; ++at) {
        complete.push_back(history_[at].complete);
      }
      const result<mapping> found = co_await image_->map(range, map_effort::locate);
      if (!found || found->extent.kind != extent_kind::data) continue;
      co_await clock_.sleep(std::chrono::microseconds(draw(20000)));
      std::vector<std::byte> data(static_cast<std::size_t>(found->extent.length));
      const result<void> got = co_await image_->storage_at(0).read(found->extent.host_offset, data);
      if (!got) continue;
      for (std::size_t index = 0; index < data.size() / world_sector; ++index) {
        const tag value = sector_oracle::read(std::span(data).subspan(index * world_sector, world_sector));
        EXPECT_TRUE(seen_since(first + index, complete[index], value))
            << "sector " << first + index << ", pinned, reads " << value;
      }
    }
  }

  task<void> flush_now_and_then(int steps) {
    for (int step = 0; step < steps && power_.on(); ++step) {
      co_await clock_.sleep(std::chrono::microseconds(draw(2000)));
      std::vector<std::size_t> complete;
      for (const sector_history& each : history_) complete.push_back(each.complete);
      const result<void> flushed = co_await driver_->flush();
      if (!flushed) continue;
      for (std::size_t sector = 0; sector < history_.size(); ++sector) {
        history_[sector].durable = std::max(history_[sector].durable, complete[sector]);
      }
    }
  }

  boost::asio::io_context io_;
  std::mt19937_64 random_;
  virtual_clock clock_;
  power_supply power_;
  simulated_disk disk_;
  image_create_options options_;
  std::uint64_t grain_ = 0;
  std::uint64_t region_ = 0;
  bool forgetful_ = false;
  std::string description_;
  std::vector<sector_history> history_;
  tag last_tag_ = 0;
  std::unique_ptr<image> image_;
  std::optional<image_driver> driver_;
};

/// Calls `live(world, seed)` with a prepared world for each seed, until one fails.
template <class Live>
void each_world(std::uint64_t runs, Live live) {
  for (const std::uint64_t seed : seeds(runs)) {
    if (testing::Test::HasFailure()) return;
    concurrent_world world(seed);
    SCOPED_TRACE(world.description());
    world.prepare();
    live(world, seed);
  }
}

TEST(qcow2_concurrency, tasks_never_see_each_others_bytes) {
  each_world(150, [](concurrent_world& world, std::uint64_t) {
    for (int life = 0; life < 2 && !HasFailure(); ++life) world.live(40);
    const qcow2_report report = check_qcow2(qcow2_world::bytes_of(world.disk()));
    EXPECT_TRUE(world.is_sound(report)) << report.text();
  });
}

TEST(qcow2_concurrency, errors_lose_nothing_that_was_answered) {
  each_world(150, [](concurrent_world& world, std::uint64_t seed) {
    world.disk().inject({.operation = std::nullopt, .skip_count = 40 + seed % 300, .count = 1 + seed % 25});
    world.live(40);
    const qcow2_report report = check_qcow2(qcow2_world::bytes_of(world.disk()));
    EXPECT_TRUE(report.errors.empty()) << report.text();
  });
}

TEST(qcow2_concurrency, power_loss_leaves_what_was_flushed) {
  each_world(400, [](concurrent_world& world, std::uint64_t seed) {
    world.power().cut_after(seed * 7 % 900);
    world.live(40);
    for (std::uint64_t survival = 0; survival < 4 && !HasFailure(); ++survival) {
      SCOPED_TRACE("survival " + std::to_string(survival));
      world.expect_survival(survival);
    }
  });
}

}  // namespace
}  // namespace weir::test
