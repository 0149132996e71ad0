// One qcow2 image on a simulated disk, its oracle, and random changes to both. Everything follows from a seed.
//
// The oracle knows, for each 512-byte sector, what may be read after a power loss: what the last successful
// flush made durable, or anything that was there since.
#pragma once

#include "engine/block/format_table.hpp"
#include "engine/block/image.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace weir::test {

inline constexpr std::size_t world_sector = 512;
/// A sector of bytes that belong to no write.
inline constexpr std::uint64_t rubbish_tag = 0xdbdb'dbdb'dbdb'dbdb;

/// Clears COPIED in a part of the active tables, which is allowed and makes every cluster concerned move when
/// it is written, L2 tables included. Precondition: the image is closed and nothing is unsynced.
void forget_copied(simulated_disk& disk, std::mt19937_64& random);

struct qcow2_settings {
  std::uint64_t seed = 1;
  std::uint64_t largest_size = 96 * KiB;
  bool small_clusters = false;  ///< 512 bytes only: most metadata for the least data
  bool widest_counts = false;   ///< 64 bits: the refcount table is full soonest
  /// Always; otherwise one world in four has them, with clusters from 16 KiB. Not with small_clusters.
  bool subclusters = false;
  bool data_files = false;  ///< some worlds keep their data in a file of its own
};

/// Bytes a test may expect, sector by sector.
class sector_oracle {
 public:
  using tag = std::uint64_t;

  explicit sector_oracle(std::vector<tag> initial) : now_(std::move(initial)), possible_(now_.size()) {
    settle();
  }

  std::size_t count() const { return now_.size(); }
  /// The disk has another length; what is gained holds `values`, and may hold anything where `loose` says so.
  void resize(std::size_t count, const std::vector<tag>& values, std::size_t loose_until) {
    const std::size_t before = now_.size();
    now_.resize(count);
    possible_.resize(count);
    for (std::size_t sector = before; sector < count; ++sector) {
      set(sector, values[sector]);
      if (sector < loose_until) loose_.insert(sector);
    }
  }
  tag at(std::size_t sector) const { return now_[sector]; }
  void set(std::size_t sector, tag value) {
    now_[sector] = value;
    possible_[sector].insert(value);
  }
  /// Another value that may or may not have arrived: the change failed.
  void may_be(std::size_t sector, tag value) { possible_[sector].insert(value); }
  /// A flush succeeded, and nothing was changed while it ran.
  void settle() {
    for (std::size_t sector = 0; sector < now_.size(); ++sector) possible_[sector] = {now_[sector]};
    loose_.clear();
  }
  bool allows(std::size_t sector, tag value) const {
    return possible_[sector].contains(value) || loose_.contains(sector);
  }

  /// A sector of `value`s; 0 is a sector of zeros.
  static void fill(std::span<std::byte> sector, tag value) {
    for (std::size_t at = 0; at < sector.size(); at += sizeof value) {
      std::memcpy(sector.data() + at, &value, sizeof value);
    }
  }
  /// The value a sector is full of; all ones if it is torn inside.
  static tag read(std::span<const std::byte> sector) {
    tag first = 0;
    std::memcpy(&first, sector.data(), sizeof first);
    for (std::size_t at = 0; at < sector.size(); at += sizeof first) {
      if (std::memcmp(sector.data() + at, &first, sizeof first) != 0) return ~tag{0};
    }
    return first;
  }

 private:
  std::vector<tag> now_;
  std::vector<std::set<tag>> possible_;
  std::set<std::size_t> loose_;
};

class qcow2_world {
 public:
  explicit qcow2_world(const qcow2_settings& settings);

  const std::string& description() const { return description_; }
  power_supply& power() { return power_; }
  simulated_disk& disk() { return disk_; }
  sector_oracle& oracle() { return oracle_; }
  std::mt19937_64& random() { return random_; }
  std::uint64_t size() const { return size_; }
  std::uint64_t draw(std::uint64_t below) { return random_() % below; }
  image& target() { return *image_; }
  boost::asio::io_context& io() { return io_; }
  /// From the next opening on.
  void set_bitmap_care(bitmap_care care) { care_ = care; }

  void open();
  result<void> close();

  /// A third of the worlds lose COPIED flags between their lives.
  bool forgetful() const { return forgetful_; }
  void forget_copied_sometimes();

  /// Forgets the image as a crash does.
  void abandon();

  /// One random change, or a flush. Stops caring about success once the power is off.
  void step();
  void write(std::uint64_t first, std::uint64_t count);

  /// The unit around a sector, compressed, where that can be; published or given back.
  void write_encoded(std::uint64_t around, bool publish);

  /// How many units have been written compressed.
  std::uint64_t encoded_units() const { return encoded_units_; }

  /// Another size, as the engine does it: what is gained in the last cluster is zeroed.
  void resize(std::uint64_t size);

  /// The header ends the disk at `size`; the tables still say something behind it, as after a snapshot with machine
  /// state. Precondition: closed, nothing unsynced, the disk is longer.
  void cut_header(std::uint64_t size);

  /// Everything shows the backing image again.
  void make_empty();
  void zero(std::uint64_t first, std::uint64_t count);
  void discard(std::uint64_t first, std::uint64_t count);

  /// Allocates, writes rubbish there and gives it back: nobody may see it.
  void abort_allocation(std::uint64_t first, std::uint64_t count);
  void flush();
  void expect_content(const char* when);

  /// What stands on a disk after a power loss is sound, holds what was flushed, and can be written again.
  void expect_survival(std::uint64_t survival);

  /// Opens the image on `disk`, or a snapshot of it, for reading.
  std::unique_ptr<image> open_reader(simulated_disk& disk, const std::string& snapshot = {});
  std::unique_ptr<image> open_writer(simulated_disk& disk) { return open_on(disk, data_disk_, true); }
  std::vector<sector_oracle::tag> read_tags(image& from);
  static std::vector<std::byte> bytes_of(const simulated_disk& disk);

 private:
  void choose_options(const qcow2_settings& settings);
  void make_backing();
  sector_oracle::tag backing_tag(std::size_t sector) const;

  static std::span<std::byte> sector_of(std::vector<std::byte>& bytes, std::uint64_t index);
  static data_file_opener data_file_on(simulated_disk& disk);
  static task<outcome<std::unique_ptr<storage>>> open_data(simulated_disk& disk);

  std::unique_ptr<image> open_on(simulated_disk& disk, simulated_disk& data, bool writable,
                                 const std::string& snapshot = {});
  std::vector<sector_oracle::tag> read_all(image_driver& driver);
  void expect_done(const result<void>& done, const char* what);

  boost::asio::io_context io_;
  std::mt19937_64 random_;
  power_supply power_;
  simulated_disk disk_;
  simulated_disk data_disk_;
  image_create_options options_;
  std::uint64_t size_ = 0;
  bool has_backing_ = false;
  bool forgetful_ = false;
  std::size_t cache_bytes_ = 0;
  bitmap_care care_ = bitmap_care::withdraw;
  std::string description_;
  std::vector<std::byte> backing_;
  sector_oracle oracle_;
  sector_oracle::tag last_tag_ = 0;
  std::uint64_t encoded_units_ = 0;
  std::optional<std::uint64_t> other_size_;  ///< a resize to it was under way when the power went
  std::unique_ptr<image> image_;
  std::optional<image_driver> driver_;
};

}  // namespace weir::test
