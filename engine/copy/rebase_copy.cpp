#include "engine/copy/rebase_copy.hpp"

#include "engine/base/task_group.hpp"
#include "engine/base/zero_scan.hpp"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace weir {
namespace {

constexpr unsigned window_steps = 8;
constexpr std::uint64_t smallest_step_bytes = 1 * MiB;
constexpr std::size_t runs_at_once = 64;

/// Steps side by side, and the first failure of any of them.
class stepper {
 public:
  stepper(disk& overlay, progress_callback progress)
      : overlay_(overlay),
        progress_(std::move(progress)),
        step_bytes_(std::clamp(overlay.grain(), smallest_step_bytes, disk::largest_step)),
        steps_(overlay.resources().context) {}

  std::uint64_t step_bytes() const noexcept { return step_bytes_; }
  bool failed() const noexcept { return failed_.has_value(); }
  void fail(const disk& where, std::uint64_t offset, error_code code) {
    if (!failed_) failed_ = make_failure(code, where.name() + ": at offset " + std::to_string(offset));
  }

  /// Starts `work` as soon as the window has room for it; false when there is nothing more to be done.
  task<bool> start(task<void> work, std::uint64_t done_bytes) {
    if (progress_ && !progress_(done_bytes, overlay_.size())) {
      failed_ = make_failure(errc::cancelled, overlay_.name());
    }
    if (failed()) co_return false;
    co_await steps_.wait_until_running(window_steps - 1);
    steps_.spawn(std::move(work));
    co_return true;
  }

  task<outcome<void>> finish() {
    co_await steps_.join();
    if (failed_) co_return *failed_;
    if (progress_) progress_(overlay_.size(), overlay_.size());
    co_return outcome<void>{};
  }

 private:
  disk& overlay_;
  progress_callback progress_;
  std::uint64_t step_bytes_;
  task_group steps_;
  std::optional<failure> failed_;
};

/// The runs of `grain` bytes in which two buffers of one length differ.
std::vector<byte_range> differing_runs(std::span<const std::byte> a, std::span<const std::byte> b,
                                       std::uint64_t grain) {
  std::vector<byte_range> runs;
  for (std::uint64_t at = 0; at < a.size(); at += grain) {
    const std::uint64_t length = std::min<std::uint64_t>(grain, a.size() - at);
    if (std::memcmp(a.data() + at, b.data() + at, length) == 0) continue;
    if (!runs.empty() && runs.back().end() == at) {
      runs.back().length += length;
    } else {
      runs.push_back({at, length});
    }
  }
  return runs;
}

class difference_copy {
 public:
  difference_copy(disk& overlay, disk& backing, progress_callback progress)
      : overlay_(overlay), backing_(backing), steps_(overlay, std::move(progress)) {}

  task<outcome<void>> run();

 private:
  task<void> compare_run(byte_range range);
  task<void> compare_step(byte_range range);
  task<result<void>> read_new(byte_range range, std::span<std::byte> buffer);
  task<result<bool>> both_zero(byte_range range);

  disk& overlay_;
  disk& backing_;
  stepper steps_;
};

task<outcome<void>> difference_copy::run() {
  byte_range rest{0, overlay_.size()};
  while (!rest.empty() && !steps_.failed()) {
    const result<std::vector<status_run>> runs = co_await overlay_.status(rest, runs_at_once);
    if (!runs) {
      steps_.fail(overlay_, rest.offset, runs.error());
      break;
    }
    for (const status_run& run : *runs) {
      const byte_range here{rest.offset, run.length};
      if (run.depth != 1) co_await compare_run(here);
      rest = range_between(here.end(), rest.end());
    }
  }
  co_return co_await steps_.finish();
}

task<void> difference_copy::compare_run(byte_range range) {
  while (!range.empty()) {
    const std::uint64_t end =
        std::min(range.end(), align_down(range.offset, steps_.step_bytes()) + steps_.step_bytes());
    const byte_range step = range_between(range.offset, end);
    const bool going_on = co_await steps_.start(compare_step(step), step.offset);
    if (!going_on) co_return;
    range = range_between(end, range.end());
  }
}

/// What lies past the end of the new backing image reads as zero.
task<result<void>> difference_copy::read_new(byte_range range, std::span<std::byte> buffer) {
  const byte_range there = intersection(range, {0, backing_.size()});
  std::memset(buffer.data() + there.length, 0, buffer.size() - there.length);
  if (there.empty()) co_return result<void>{};
  co_return co_await backing_.read(range.offset, buffer.first(there.length));
}

/// True if metadata alone tells that both read as zero.
task<result<bool>> difference_copy::both_zero(byte_range range) {
  const result<std::vector<status_run>> old_runs = co_await overlay_.status(range, 1);
  if (!old_runs) co_return result<bool>(boost::system::in_place_error, old_runs.error());
  const auto all_zero = [](const std::vector<status_run>& runs, byte_range whole) {
    return runs.front().zero && runs.front().length == whole.length;
  };
  if (!all_zero(*old_runs, range)) co_return false;
  const byte_range there = intersection(range, {0, backing_.size()});
  if (there.empty()) co_return true;
  const result<std::vector<status_run>> new_runs = co_await backing_.status(there, 1);
  if (!new_runs) co_return result<bool>(boost::system::in_place_error, new_runs.error());
  co_return all_zero(*new_runs, there);
}

task<void> difference_copy::compare_step(byte_range range) {
  const result<bool> same = co_await both_zero(range);
  if (!same) steps_.fail(overlay_, range.offset, same.error());
  if (!same || *same) co_return;
  const buffer_lease buffer = co_await overlay_.resources().buffers.acquire(2 * range.length);
  const std::span<std::byte> old_bytes = buffer.bytes().first(range.length);
  const std::span<std::byte> new_bytes = buffer.bytes().subspan(range.length);
  const result<void> got_old = co_await overlay_.read(range.offset, old_bytes);
  if (!got_old) steps_.fail(overlay_, range.offset, got_old.error());
  const result<void> got_new = co_await read_new(range, new_bytes);
  if (!got_new) steps_.fail(backing_, range.offset, got_new.error());
  if (!got_old || !got_new) co_return;
  const std::uint64_t grain = std::min(overlay_.grain(), steps_.step_bytes());
  auto compare = [old_bytes, new_bytes, grain] { return differing_runs(old_bytes, new_bytes, grain); };
  const std::vector<byte_range> runs = co_await overlay_.resources().workers.run(std::move(compare));
  for (const byte_range run : runs) {
    const auto bytes = old_bytes.subspan(run.offset, run.length);
    const std::vector<byte_range> non_zero = non_zero_runs(bytes, grain);
    const byte_range guest{range.offset + run.offset, run.length};
    const result<void> stored = co_await overlay_.store(guest, bytes, non_zero, false);
    if (stored) continue;
    steps_.fail(overlay_, guest.offset, stored.error());
    co_return;
  }
}

task<void> populate_step(stepper& steps, disk& overlay, byte_range range) {
  const result<populated> done = co_await overlay.populate(range, overlay.chain().depth());
  if (!done) steps.fail(overlay, range.offset, done.error());
}

}  // namespace

task<outcome<void>> copy_differences(disk& overlay, disk& backing, progress_callback progress) {
  difference_copy work(overlay, backing, std::move(progress));
  co_return co_await work.run();
}

task<outcome<void>> copy_everything(disk& overlay, progress_callback progress) {
  stepper steps(overlay, std::move(progress));
  const std::size_t bottom = overlay.chain().depth();
  for (std::uint64_t from = 0; from < overlay.size() && !steps.failed();) {
    const result<byte_range> next = co_await overlay.find_to_populate(from, bottom, steps.step_bytes());
    if (!next) {
      steps.fail(overlay, from, next.error());
      break;
    }
    if (next->empty()) break;
    const bool going_on = co_await steps.start(populate_step(steps, overlay, *next), next->offset);
    if (!going_on) break;
    from = next->end();
  }
  co_return co_await steps.finish();
}

}  // namespace weir
