// A guest's disk on simulated media: random chains of raw, qcow2 and QED layers with small geometry, random requests
// side by side, checked against a guest_oracle. Everything follows from one seed.
#pragma once

#include "engine/base/virtual_clock.hpp"
#include "engine/block/disk.hpp"
#include "engine/jobs/job.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "tests/support/guest_oracle.hpp"
#include "tests/support/remote_storage.hpp"
#include "tests/support/simulation.hpp"

#include <boost/asio/io_context.hpp>

#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

namespace weir::test {

/// How long the link to remote layers is cut at a time, compared with how long requests wait for it.
enum class link_cuts { none, shorter_than_the_limit, longer_too };
inline constexpr std::uint64_t sector = 512;

struct world_settings {
  std::uint64_t seed = 1;
  /// Of a million operations on the media, during requests but not while layers are opened or checked.
  std::uint32_t errors_per_million = 0;
  std::uint64_t longest_disk_bytes = 48 * KiB;
  std::uint64_t most_layers = 4;
  /// Unless none: all layers but the active one, or in one world of four all, are remote, and their link is cut beside
  /// the requests.
  link_cuts cuts = link_cuts::none;
};

class disk_world {
 public:
  explicit disk_world(world_settings settings);
  ~disk_world();
  disk_world(const disk_world&) = delete;
  disk_world& operator=(const disk_world&) = delete;

  /// Makes the layers, base first, each with random content. The guest's disk is then closed.
  void make_chain();
  void open();
  void close();

  /// A few random requests side by side, waited for; what they read is checked.
  void run_requests();
  /// Starts streaming to a random base, if no job runs; requests go on beside it.
  void start_streaming();
  /// Starts mirroring to a new image, if no job runs, full or shallow, in a random mode. While requests run it may be told
  /// to pivot.
  void start_mirroring();
  /// Starts committing layers into a lower one, if no job runs, from the active one or from one in the middle.
  void start_committing();
  /// Starts a backup to a new image, if no job runs, full or shallow, maybe compressed.
  void start_backup();
  /// Waits for the job, if there is one. A mirror is told to end in one of its ways; a finished copy reads as the disk.
  void finish_job();
  void toggle_copy_on_read();
  /// One of `kinds` things: a job starts, copy-on-read changes, the disk is closed and opened, its content is checked;
  /// all others are requests.
  void live_a_step(std::uint64_t kinds);
  /// Asks `count` times who owns a random range, among random layers, and compares the answer with a walk; now and
  /// then the chain forgets what it remembers. Does nothing, or waits, while a job runs. Precondition: no faults.
  void check_owners(unsigned count);
  /// Reads the whole disk and compares it with the oracle.
  void check_content();
  power_supply& power() noexcept { return power_; }
  /// Cuts the power now (if it is still on), opens what may be left of the media, and checks that the disk reads
  /// as the oracle allows.
  void lose_power(std::uint64_t seed);

  std::mt19937_64& random() noexcept { return random_; }
  /// "qcow2 <- qed <- raw", active first, for failure messages.
  std::string description() const;
  std::size_t depth() const { return disk_ ? disk_->chain().depth() : 0; }

 private:
  struct medium {
    std::string format;
    std::unique_ptr<simulated_disk> bytes;
  };

  std::uint64_t draw(std::uint64_t below) { return random_() % below; }
  byte_range draw_range(std::uint64_t size);
  std::vector<std::byte> draw_content(std::uint64_t length);
  static std::string layer_name(std::size_t index);
  std::size_t index_of(std::string_view name) const;
  void add_layer(std::size_t index);
  /// A new medium: an image of random format and geometry over the one called `below`, or over nothing.
  void add_image(std::uint64_t size, const std::string& below);
  /// The newest medium and what its headers name below it.
  std::unique_ptr<disk> open_newest(disk_settings how) {
    return open_from(media_.size() - 1, std::move(how));
  }
  /// The same for an older medium.
  std::unique_ptr<disk> open_from(std::size_t newest, disk_settings how);
  task<outcome<std::shared_ptr<layer>>> open_one(std::size_t index, bool writable);
  task<outcome<std::shared_ptr<layer>>> open_anew(std::string name, bool writable);
  void inject_errors(bool on);
  void apply_errors(bool on);
  task<void> cut_link();
  bool may_fail() const noexcept;
  void run_job(std::unique_ptr<job> created);
  void tell_job_to_end();
  void take_result();
  /// The medium `newest`, with what it stands on, reads as `wanted`.
  void compare_copy(std::size_t newest, const std::vector<std::byte>& wanted);
  std::vector<std::byte> disk_content();
  bool has_two_phases() const;
  template <class T>
  T run(task<T> work) {
    return run_simulation(io_, clock_, std::move(work));
  }

  task<void> request(std::uint64_t kind, byte_range range);
  task<void> read(byte_range range);
  task<void> write(byte_range range, bool fua);
  task<void> zero_or_discard(byte_range range, bool discard);
  task<void> flush();

  world_settings settings_;
  std::mt19937_64 random_;
  boost::asio::io_context io_;
  virtual_clock clock_;
  buffer_pool buffers_;
  worker_pool workers_;
  remote_link link_;
  bool all_remote_ = false;
  bool injects_errors_ = false;
  power_supply power_;
  std::vector<medium> media_;
  guest_oracle oracle_;
  std::unique_ptr<disk> disk_;
  std::unique_ptr<job> job_;
  bool job_ended_ = false;
  std::optional<std::size_t> commit_base_;  // of an active commit: the medium
  bool pivots_ = false;                     // the job was told to complete
  bool keeps_copy_ = false;                 // it was told to finish
  bool was_given_up_ = false;               // it was told to cancel
  std::vector<std::byte> backup_content_;   // of the disk when the backup began
};

}  // namespace weir::test
