// Backup: a copy of a disk as it was at one instant, made while its guest goes on writing (copy before write).
//
// The instant is begin(): with the disk drained the job becomes its observer. From then on a granule that the copy has
// not saved yet is saved before the guest changes it: before_change() holds the granules, reads what is there, writes
// that to the target and clears their bits; then the guest goes on. Beside that the job saves the rest by itself,
// in a window of steps, in the same way. A step and a guest's change exclude each other by the hold (`saving_`); a bit
// is cleared once the target has the bytes, never before.
//
// Lock order: the disk's gate, then the hold, then a buffer, which are the job's own: whoever has one waits for I/O only.
//
// Incremental: only what a dirty bitmap says has changed. The bitmap goes on recording; the job keeps what has changed
// since the instant, and success leaves just that in the bitmap. After a failure the bitmap still has everything.
//
// The end: all is saved; the target is durable; the disk is drained, the job stops watching and the bitmap is
// changed; requests go on; the target is closed.
#pragma once

#include "engine/base/buffer_pool.hpp"
#include "engine/base/dirty_bitmap.hpp"
#include "engine/base/in_flight.hpp"
#include "engine/base/task_group.hpp"
#include "engine/block/disk.hpp"
#include "engine/jobs/job.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace weir {

enum class backup_sync : std::uint8_t {
  full,         ///< all that the chain holds
  top,          ///< what the active layer holds: the target stands on the same backing image
  incremental,  ///< what the bitmap says
};

/// What happens when what a guest is about to change cannot be saved.
enum class save_failure : std::uint8_t {
  break_backup,       ///< the job fails, the guest's request goes on
  break_guest_write,  ///< the guest's request fails, the job goes on
};

struct backup_options {
  backup_sync sync = backup_sync::full;
  std::string bitmap;           ///< incremental
  bool keeps_bitmap = false;    ///< incremental: success leaves the bitmap as it is
  bool target_is_zero = false;  ///< the target reads as zero throughout
  bool encode = false;          ///< compressed. Precondition: the target's encoding()
  save_failure on_save_failure = save_failure::break_backup;
  /// Called once the target is closed and whole. Its error is the job's.
  std::function<outcome<void>()> completed = nullptr;
};

/// The disk must outlive the job; its active layer must stay what it is meanwhile.
class backup_job final : public job, private change_observer {
 public:
  /// Precondition: `target` has the disk's size, and only the job uses it.
  backup_job(disk& source, std::unique_ptr<disk> target, job_settings settings, backup_options options);
  ~backup_job() override;

  /// Before begin(): what may fail or wait. Failures name the disk and the bitmap.
  task<outcome<void>> prepare();
  /// The instant that is copied. Precondition: prepare() has succeeded and the disk is drained.
  void begin();
  /// As if begin() had not been called. Precondition: the disk is still drained.
  void undo_begin() noexcept;
  /// Instead of run(): closes the target.
  task<void> give_up();

 private:
  task<result<void>> before_change(byte_range range, change_kind kind) override;
  task<result<void>> after_change(byte_range range, change_kind kind, std::span<const std::byte> data,
                                  bool succeeded) override;

  task<outcome<void>> do_run() override;
  task<void> do_settle() override;
  task<outcome<void>> do_finalize() override;
  task<void> do_clean_up() override;

  task<result<void>> leave_out_zeros();
  task<result<void>> save_all();
  task<void> save_step(byte_range range);
  task<result<void>> save(byte_range range);
  task<result<void>> save_held(byte_range run);
  task<result<void>> store_encoded(byte_range run, std::span<const std::byte> data,
                                   std::span<const byte_range> non_zero);
  task<result<void>> handle_failure();
  task<outcome<void>> settle_bitmap();
  task<void> stop_watching();
  bool is_wanted(const status_run& run) const noexcept;
  void fail(byte_range range, error_code code);
  void show_progress();

  disk& source_;
  std::unique_ptr<disk> target_;
  backup_options options_;
  dirty_bitmap to_save_;
  std::optional<dirty_bitmap> since_;  // incremental: changes since the instant, at the bitmap's granularity
  buffer_pool buffers_;
  in_flight_ranges saving_;
  task_group steps_;
  std::uint64_t step_bytes_;
  std::uint64_t saved_bytes_ = 0;
  bool begun_ = false;
  bool watching_ = false;
  bool broken_ = false;  // the copy of the instant is lost
  byte_range failed_range_;
  error_code failed_with_;
};

}  // namespace weir
