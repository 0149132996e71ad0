// A QED image on a simulated disk under random guest requests, against a byte oracle.
//
// The smallest geometry (4 KiB clusters, one-cluster tables: 2 MiB per L2 table). The guest touches three
// windows only: the beginning, the seam of two L2 tables, and the end of a disk of odd length; the oracle sees
// them laid end to end. Each window has one worker at a time, so that grains are exclusive, as image.hpp
// demands; flushes come from all of them.
#pragma once

#include "engine/base/task_group.hpp"
#include "engine/base/virtual_clock.hpp"
#include "engine/block/image.hpp"
#include "engine/storage/simulated_disk.hpp"
#include "tests/support/guest_oracle.hpp"
#include "tests/support/image_driver.hpp"

#include <boost/asio/io_context.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <random>
#include <vector>

namespace weir::test {

struct qed_world_settings {
  std::uint64_t seed = 1;
  bool with_backing = true;
  std::uint32_t errors_per_million = 0;
};

class qed_world {
 public:
  static constexpr std::uint64_t table_span = 2 * MiB;
  static constexpr std::uint64_t virtual_size = 2 * table_span + 24 * KiB + 512;
  static constexpr std::array windows{byte_range{0, 24 * KiB}, byte_range{table_span - 12 * KiB, 24 * KiB},
                                      byte_range{virtual_size - 16 * KiB - 512, 16 * KiB + 512}};

  /// Creates and opens the image. What follows is subject to power() and errors.
  explicit qed_world(qed_world_settings settings);
  ~qed_world();
  qed_world(const qed_world&) = delete;
  qed_world& operator=(const qed_world&) = delete;

  power_supply& power() noexcept { return power_; }
  image& opened() noexcept { return *image_; }
  simulated_disk& disk() noexcept { return *disk_; }

  /// A worker per window, each with `count` random requests.
  void run_requests(unsigned count);
  /// Reads everything and compares.
  void check_content();
  void reopen();
  /// The disk comes up again with what `survival` lets survive; the content must be possible and the image open
  /// for writing. Power and disk are sound from then on.
  void lose_power(std::uint64_t survival);
  /// Closes the image and walks its tables.
  void close_and_check();

 private:
  void open(bool expect_clean);
  void close();
  void settle_on(const std::vector<std::byte>& content);
  std::vector<std::byte> read_windows();
  task<void> work(std::size_t window, unsigned count);
  task<void> request(std::size_t window, std::mt19937_64& random);
  task<void> write(std::size_t window, byte_range within, std::mt19937_64& random);
  task<void> zero(std::size_t window, byte_range within);
  task<void> discard(std::size_t window, byte_range within);
  task<void> read(std::size_t window, byte_range within);
  task<void> flush();

  static std::uint64_t oracle_base(std::size_t window);

  qed_world_settings settings_;
  boost::asio::io_context io_;
  virtual_clock clock_;
  power_supply power_;
  std::unique_ptr<simulated_disk> disk_;
  std::vector<std::byte> backing_;
  guest_oracle oracle_;
  std::unique_ptr<image> image_;
  std::optional<image_driver> driver_;
  std::uint64_t run_count_ = 0;
};

}  // namespace weir::test
