// Power loss at every write boundary of a repair: the image is no worse than before, the guest reads what it read,
// and the next repair finishes.
#include "engine/base/endian.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/qcow2_checker.hpp"
#include "tests/support/run_task.hpp"
#include "tests/support/seeds.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace weir::test {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t cluster = 512;
constexpr std::uint64_t disk_size = 96 * KiB;
constexpr std::uint64_t copied = std::uint64_t{1} << 63;
constexpr std::uint64_t offset_bits = 0x00ff'ffff'ffff'fe00;

class repair_world {
 public:
  explicit repair_world(std::uint64_t seed) : random_(seed) {
    image_create_options options;
    options.virtual_size = disk_size;
    options.options["cluster_size"] = "512";
    simulated_storage into(disk_);
    run(io_, qcow2_driver().create(into, options)).value();
    auto opened =
        run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(disk_), {.writable = true})).value();
    image_driver driver(*opened);
    for (int writes = 0; writes < 12; ++writes) {
      const bytes data(static_cast<std::size_t>(cluster * (1 + random_() % 8)),
                       static_cast<std::byte>(random_()));
      run(io_, driver.write(random_() % (disk_size / cluster - 8) * cluster, data)).value();
    }
    run(io_, opened->close()).value();
    disk_.settle_all();
    for (std::uint64_t left = 1 + random_() % 6; left > 0; --left) damage();
  }

  const simulated_disk& disk() const { return disk_; }

  std::uint64_t repair_on(simulated_disk& disk, check_report& report) {
    check_options options;
    options.repair = repair_mode::all;
    const auto done = run(io_, qcow2_driver().check(std::make_unique<simulated_storage>(disk), options));
    if (!done) return 1;
    report = *done;
    return 0;
  }

  /// Sector by sector; nothing where it cannot be read.
  std::vector<std::optional<bytes>> content(const simulated_disk& of) {
    simulated_disk copy = of.after_power_loss(1);
    std::vector<std::optional<bytes>> all;
    auto opened =
        run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(copy), {.writable = false})).value();
    image_driver driver(*opened);
    for (std::uint64_t at = 0; at < disk_size; at += cluster) {
      bytes data(cluster);
      const result<void> got = run(io_, driver.read(at, data));
      all.push_back(got ? std::optional(data) : std::nullopt);
    }
    run(io_, opened->close()).value();
    return all;
  }

  static bytes bytes_of(const simulated_disk& disk) {
    bytes all(static_cast<std::size_t>(disk.size()));
    disk.visible().read(0, all);
    return all;
  }

 private:
  std::uint64_t number(std::uint64_t at) const {
    bytes raw(8);
    disk_.visible().read(at, raw);
    return load_big<std::uint64_t>(raw.data());
  }
  void put(std::uint64_t at, std::uint64_t value) {
    bytes raw(8);
    store_big(raw.data(), value);
    disk_.load(at, raw);
  }
  /// An L2 entry that is in use.
  std::uint64_t some_entry() {
    while (true) {
      const std::uint64_t guest = random_() % (disk_size / cluster);
      const std::uint64_t table = number(number(40) + guest / 64 * 8) & offset_bits;
      const std::uint64_t at = table + guest % 64 * 8;
      if (table != 0 && (number(at) & offset_bits) != 0) return at;
    }
  }
  void damage() {
    const std::uint64_t block = number(number(48));
    switch (random_() % 7) {
      case 0:
        if (block != 0) disk_.load(block + random_() % (disk_.size() / cluster) * 2, bytes(2));
        return;
      case 1:
        if (block != 0)
          disk_.load(block + random_() % (disk_.size() / cluster) * 2 + 1, bytes(1, std::byte{3}));
        return;
      case 2:
        return put(some_entry(), number(some_entry()));
      case 3: {
        const std::uint64_t at = some_entry();
        return put(at, number(at) & ~copied);
      }
      case 4:
        return put(some_entry(), 0);
      case 5:
        return put(number(48), random_() % 2 == 0 ? 0 : number(48) + 8);
      default:
        return put(72, 1);
    }
  }

  boost::asio::io_context io_;
  std::mt19937_64 random_;
  simulated_disk disk_;
};

TEST(qcow2_repair_power_loss, leaves_nothing_worse_and_the_next_repair_finishes) {
  for (const std::uint64_t seed : seeds(60)) {
    repair_world world(seed);
    const auto before = world.content(world.disk());
    const std::size_t errors_before = check_qcow2(repair_world::bytes_of(world.disk())).errors.size();
    for (std::uint64_t cut = 0;; ++cut) {
      SCOPED_TRACE("WEIR_SEED=" + std::to_string(seed) + ", cut after " + std::to_string(cut));
      power_supply power;
      simulated_disk disk = world.disk().after_power_loss(1, power);
      power.cut_after(cut);
      check_report ignored;
      const bool failed = world.repair_on(disk, ignored) != 0;
      for (std::uint64_t survival = 0; survival < 4; ++survival) {
        simulated_disk survivor = disk.after_power_loss(survival == 3 ? 3 + cut : survival);
        const qcow2_report found = check_qcow2(repair_world::bytes_of(survivor));
        ASSERT_LE(found.errors.size(), errors_before) << "survival " << survival << ": " << found.text();
        ASSERT_TRUE(world.content(survivor) == before) << "survival " << survival;
        check_report report;
        ASSERT_EQ(world.repair_on(survivor, report), 0U);
        ASSERT_TRUE(report.is_clean()) << "survival " << survival;
        const qcow2_report after = check_qcow2(repair_world::bytes_of(survivor));
        ASSERT_TRUE(after.is_clean()) << after.text();
        ASSERT_TRUE(world.content(survivor) == before);
      }
      if (power.on()) {
        ASSERT_FALSE(failed);
        break;
      }
    }
  }
}

}  // namespace
}  // namespace weir::test
