#include "engine/copy/disk_copy.hpp"

#include "engine/base/task_group.hpp"
#include "engine/block/grain_planner.hpp"

#include <algorithm>
#include <optional>

namespace weir {
namespace {

constexpr std::uint64_t smallest_step_bytes = 1 * MiB;
constexpr std::uint64_t largest_step_bytes = disk::largest_step;
constexpr std::size_t status_runs_at_once = 64;

class copier {
 public:
  copier(disk& from, disk& to, disk_copy_options options)
      : from_(from),
        to_(to),
        options_(std::move(options)),
        step_bytes_(std::clamp(to.grain(), smallest_step_bytes, largest_step_bytes)),
        steps_(from.resources().context) {}

  task<outcome<disk_copy_tally>> run();

 private:
  task<void> copy_all();
  task<void> copy_run(byte_range run, bool zero);
  task<void> copy_step(byte_range range);
  task<void> zero_step(byte_range range);
  void fail(const disk& where, std::uint64_t offset, error_code code);
  std::uint64_t granularity() const noexcept;

  disk& from_;
  disk& to_;
  disk_copy_options options_;
  std::uint64_t step_bytes_;
  task_group steps_;
  std::uint64_t done_bytes_ = 0;
  disk_copy_tally tally_;
  std::optional<failure> failed_;
};

void copier::fail(const disk& where, std::uint64_t offset, error_code code) {
  if (failed_) return;
  failed_ = make_failure(code, where.name() + ": at offset " + std::to_string(offset));
}

/// Whole grains where a step holds several of them: half a cluster saved would cost a read-modify-write.
std::uint64_t copier::granularity() const noexcept {
  if (options_.sparse_bytes == 0) return step_bytes_;
  const std::uint64_t grain = to_.grain() <= step_bytes_ ? to_.grain() : 1;
  return std::max(grain, options_.sparse_bytes);
}

task<void> copier::copy_step(byte_range range) {
  const buffer_lease buffer = co_await from_.resources().buffers.acquire(range.length);
  result<std::vector<byte_range>> non_zero =
      co_await from_.read_and_scan(range, buffer.bytes(), granularity());
  if (!non_zero) {
    fail(from_, range.offset, non_zero.error());
    co_return;
  }
  if (options_.sparse_bytes == 0) non_zero->assign(1, byte_range{0, range.length});
  const result<void> stored = co_await to_.store(range, buffer.bytes(), *non_zero, options_.target_is_zero);
  if (!stored) {
    fail(to_, range.offset, stored.error());
    co_return;
  }
  std::uint64_t copied = 0;
  for (const byte_range run : *non_zero) copied += run.length;
  tally_.copied_bytes += copied;
  tally_.zero_bytes += range.length - copied;
  done_bytes_ += range.length;
}

task<void> copier::zero_step(byte_range range) {
  const zero_flags punch;
  if (!options_.target_is_zero) {
    const result<void> zeroed = co_await to_.zero(range, punch);
    if (!zeroed) fail(to_, range.offset, zeroed.error());
  }
  tally_.zero_bytes += range.length;
  done_bytes_ += range.length;
}

task<void> copier::copy_run(byte_range run, bool zero) {
  while (!run.empty() && !failed_) {
    if (options_.progress && !options_.progress(done_bytes_, from_.size())) {
      failed_ = make_failure(errc::cancelled, from_.name());
      co_return;
    }
    co_await steps_.wait_until_running(options_.window_steps - 1);
    // Steps end on multiples of the step, so that runs of odd lengths do not shift the ones behind them.
    const std::uint64_t end = std::min(run.end(), align_down(run.offset, step_bytes_) + step_bytes_);
    const byte_range step = zero ? run : range_between(run.offset, end);
    steps_.spawn(zero ? zero_step(step) : copy_step(step));
    run = range_between(step.end(), run.end());
  }
}

task<void> copier::copy_all() {
  grain_planner planner(std::min(to_.grain(), step_bytes_), from_.size());
  byte_range rest{0, from_.size()};
  while (!rest.empty() && !failed_) {
    const result<std::vector<status_run>> runs = co_await from_.status(rest, status_runs_at_once);
    if (!runs) {
      fail(from_, rest.offset, runs.error());
      break;
    }
    for (const status_run& run : *runs) {
      planner.add({rest.offset, run.length}, run.zero ? grain_action::mark_zero : grain_action::copy);
      rest = range_between(rest.offset + run.length, rest.end());
    }
    for (const grain_run& run : planner.take()) {
      co_await copy_run(run.range, run.action == grain_action::mark_zero);
    }
  }
}

task<outcome<disk_copy_tally>> copier::run() {
  co_await copy_all();
  co_await steps_.join();
  if (options_.progress) options_.progress(done_bytes_, from_.size());
  if (failed_) co_return *failed_;
  co_return tally_;
}

}  // namespace

task<outcome<disk_copy_tally>> copy_disk(disk& from, disk& to, disk_copy_options options) {
  copier work(from, to, std::move(options));
  co_return co_await work.run();
}

}  // namespace weir
