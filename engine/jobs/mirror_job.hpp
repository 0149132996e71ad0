// Mirror: copies a disk to another image while its guest writes, and then switches the guest over or leaves a copy of
// one moment.
//
// What the target lacks is a dirty bitmap. The job copies dirty runs in a window of steps; a step's bits are cleared
// before it reads, under a hold of the range (`copying_`), and set again if it fails. The job watches the disk:
//   background        a change marks its range dirty once it is done;
//   write-blocking    a write goes to the target before the guest is answered, with the range held; its whole
//                     granules become clean, the rest stays as it was;
//   automatic         background during the first pass over the disk; from then on a write goes to the target where
//                     that is clean and is left to the copy where it is dirty, so that dirty ranges only get fewer.
// What the target cannot be told at once (discards, writes that fail there) is marked dirty. A mark is made after the
// change: the other way round a step could clear it and read what was there before.
//
// Lock order: a step enters the disk's gate, then holds its range. A guest's change that waits for a hold is inside
// the gate, too, so that whoever drains the disk waits for both and never for one behind the other.
//
// The end: converged (READY), told to end, the job catches up, drains the disk, copies what is left, makes the target
// durable, and lets the disk go on upon the target (complete) or upon what it had (finish).
#pragma once

#include "engine/base/dirty_bitmap.hpp"
#include "engine/base/in_flight.hpp"
#include "engine/base/task_group.hpp"
#include "engine/block/disk.hpp"
#include "engine/jobs/job.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace weir {

enum class mirror_sync : std::uint8_t {
  full,  ///< all that the chain holds
  top,   ///< what the layers above `base_depth` hold: the target stands on the rest
  none,  ///< only what changes from now on
};

enum class copy_mode : std::uint8_t { background, write_blocking, automatic };

/// What makes a mirror a commit (commit.hpp): the target is made of layers of the guest's disk itself, so that nothing
/// of it is closed at the end but what the disk has no more.
struct commit_hooks {
  /// Intermediate: what is copied, a disk over layers that nobody writes; then the job is over once all is copied, and
  /// `finish`, called with the target durable, makes its success visible. Null: the guest's disk.
  std::unique_ptr<disk> source = nullptr;
  std::function<task<outcome<void>>()> finish = nullptr;
  /// Told of each layer that the guest's disk has no more, closed, once all has gone well.
  std::function<void(const layer_model& dropped)> dropped = nullptr;
  /// The last thing the job does, however it ended.
  std::function<task<void>()> clean_up = nullptr;
};

struct mirror_options {
  mirror_sync sync = mirror_sync::full;
  std::size_t base_depth = 1;  ///< mirror_sync::top: layers that are copied
  copy_mode mode = copy_mode::automatic;
  std::uint64_t granularity_bytes = 4096;  ///< of the dirty bitmap; a power of two
  std::uint64_t buffer_bytes = 8 * MiB;    ///< most in flight
  bool target_is_zero = false;             ///< full: the target reads as zero throughout
  /// Called once the disk's chain has changed. Its error is the job's.
  std::function<outcome<void>(const disk& changed)> chain_changed = nullptr;
  std::optional<commit_hooks> commit = std::nullopt;
};

/// The disk must outlive the job; no other job may change its chain meanwhile.
class mirror_job final : public job, private change_observer {
 public:
  /// Precondition: `target` is as long as the disk, or longer, and only the job uses it.
  mirror_job(disk& source, std::unique_ptr<disk> target, job_settings settings, mirror_options options);
  ~mirror_job() override;

  /// Its chain, as long as the job has it; null once it is the disk's, or closed.
  const disk* target() const noexcept { return target_.get(); }
  /// True while every change reaches the target before it is answered, or with nothing left to copy.
  bool is_synchronous() const noexcept { return synchronous_; }
  std::uint64_t dirty_bytes() const noexcept { return dirty_.dirty_bytes(); }
  /// True if it ends once all is copied, without being ready in between.
  bool is_one_phase() const noexcept { return options_.commit && options_.commit->finish; }

 private:
  task<result<void>> before_change(byte_range range, change_kind kind) override;
  task<result<void>> after_change(byte_range range, change_kind kind, std::span<const std::byte> data,
                                  bool succeeded) override;

  task<outcome<void>> do_run() override;
  task<void> do_settle() override;
  task<outcome<void>> do_finalize() override;
  task<void> do_clean_up() override;

  task<result<void>> find_work();
  task<result<void>> mirror_all();
  task<result<void>> start_step(byte_range dirty);
  task<result<void>> end_pass();
  task<result<void>> catch_up();
  task<void> copy_step(byte_range range, bool inside);
  task<void> zero_step(byte_range range);
  task<result<void>> copy_rest();
  task<result<void>> handle_failure();
  task<result<void>> mirror_change(byte_range range, change_kind kind, std::span<const std::byte> data);
  task<std::uint64_t> zero_length(byte_range range);
  task<outcome<void>> give_up_target();

  bool is_wanted(const status_run& run) const noexcept;
  byte_range step_around(byte_range dirty) const noexcept;
  void mark(byte_range range);
  void fail(byte_range range, error_code code, bool is_read);
  void show_progress();

  disk& source_;
  std::unique_ptr<disk> target_;
  mirror_options options_;
  dirty_bitmap dirty_;
  in_flight_ranges copying_;
  task_group steps_;
  std::uint64_t step_bytes_;
  unsigned window_steps_;
  std::uint64_t cursor_ = 0;
  std::uint64_t done_bytes_ = 0;
  bool synchronous_;
  bool first_pass_ = true;
  bool copied_all_ = false;  // of a job of one phase
  bool watching_ = false;
  byte_range failed_range_;
  error_code failed_with_;
  bool failed_reading_ = false;
  std::vector<std::shared_ptr<layer>> replaced_;  // the disk's own, once it goes on upon the target
};

}  // namespace weir
