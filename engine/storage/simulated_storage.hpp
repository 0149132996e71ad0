// A storage on a simulated disk. See simulated_disk.hpp for what the disk does to it.
#pragma once

#include "engine/base/virtual_clock.hpp"
#include "engine/storage/simulated_disk.hpp"
#include "engine/storage/storage.hpp"

#include <cstdint>
#include <random>
#include <string>

namespace weir {

struct simulated_storage_options {
  std::string location = "simulated";
  storage_capabilities capabilities{.writable = true,
                                    .can_grow = true,
                                    .can_punch = true,
                                    .fast_zero = true,
                                    .reports_holes = true,
                                    .alignment = 1};
  /// With a clock every operation takes a time between these, partly before and partly after its effect, so
  /// that operations overtake each other. Without one nothing suspends.
  virtual_clock* clock = nullptr;
  virtual_clock::duration shortest_latency{0};
  virtual_clock::duration longest_latency{0};
  std::uint64_t seed = 1;
  /// Draw for each discard whether it zeroes the range or does nothing; always zeroes otherwise.
  bool fickle_discard = false;
};

class simulated_storage final : public storage {
 public:
  /// `disk` and the clock outlive the storage.
  explicit simulated_storage(simulated_disk& disk, simulated_storage_options options = {});

  const std::string& location() const noexcept override { return options_.location; }
  const storage_capabilities& capabilities() const noexcept override { return options_.capabilities; }
  std::uint64_t size() const noexcept override { return disk_.size(); }
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  /// Storages on one disk have one identity.
  void note_descriptor_write(byte_range) noexcept override {}  // has no descriptor
  std::optional<identity_type> identity() const noexcept override;

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override;
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override;
  task<result<void>> do_flush() override;
  task<result<void>> do_zero(byte_range range, zero_mode mode) override;
  task<result<void>> do_discard(byte_range range) override;
  task<result<void>> do_truncate(std::uint64_t length) override;
  task<result<storage_run>> do_status(byte_range range) override;
  task<result<void>> do_close() override;

  /// Part of an operation's latency.
  task<void> pass_time();
  /// `data` is copied when the change happens, not before: it must have stayed untouched.
  task<result<void>> change(disk_operation kind, byte_range range, std::span<const std::byte> data,
                            bool keep_allocated);

  simulated_disk& disk_;
  simulated_storage_options options_;
  std::mt19937_64 random_;
};

}  // namespace weir
