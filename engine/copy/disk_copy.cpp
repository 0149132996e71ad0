#include "engine/copy/disk_copy.hpp"

#include "engine/base/task_group.hpp"
#include "engine/block/grain_planner.hpp"
#include "engine/copy/direct_step.hpp"
#include "engine/copy/unit_packer.hpp"
#include "engine/storage/positional_io.hpp"

#include <algorithm>
#include <optional>

namespace weir {
namespace {

constexpr std::uint64_t smallest_step_bytes = 1 * MiB;
constexpr std::uint64_t largest_step_bytes = disk::largest_step;
constexpr std::size_t status_runs_at_once = 64;
constexpr std::uint64_t writeback_step_bytes = 32 * MiB;

class copier {
 public:
  copier(disk& from, disk& to, disk_copy_options options)
      : from_(from),
        to_(to),
        options_(std::move(options)),
        step_bytes_(std::clamp(to.grain(), smallest_step_bytes, largest_step_bytes)),
        steps_(from.resources().context),
        turned_(from.resources().context) {
    if (options_.encode) encoding_ = to.encoding();
  }

  task<outcome<disk_copy_tally>> run();

 private:
  task<void> copy_all();
  task<void> copy_run(byte_range run, bool zero);
  task<void> copy_step(byte_range range);
  task<bool> copy_direct(byte_range range, std::span<std::byte> buffer);
  task<void> encoded_step(byte_range range, std::uint64_t turn);
  task<result<void>> store_units(byte_range step, std::span<const std::byte> plain,
                                 std::span<const packed_unit> units);
  task<result<void>> zero_between(std::uint64_t from, std::uint64_t to);
  void note_done(byte_range range, std::uint64_t copied_bytes);
  task<void> write_back();
  task<void> zero_step(byte_range range);
  void fail(const disk& where, std::uint64_t offset, error_code code);
  std::uint64_t granularity() const noexcept;
  byte_range masked_part() const noexcept;

  disk& from_;
  disk& to_;
  disk_copy_options options_;
  std::uint64_t step_bytes_;
  byte_range masked_ = masked_part();
  std::optional<unit_encoding> encoding_;
  task_group steps_;
  std::uint64_t next_turn_ = 0;
  std::uint64_t turn_ = 0;
  async_event turned_;
  std::uint64_t done_bytes_ = 0;
  std::uint64_t dirty_bytes_ = 0;  // copied since write-back was last begun
  bool writing_back_ = false;
  bool may_clone_ = options_.may_share;
  disk_copy_tally tally_;
  std::optional<failure> failed_;
};

void copier::fail(const disk& where, std::uint64_t offset, error_code code) {
  if (failed_) return;
  failed_ = make_failure(code, where.name() + ": at offset " + std::to_string(offset));
}

/// Whole grains where a step holds several of them: half a cluster saved would cost a read-modify-write.
std::uint64_t copier::granularity() const noexcept {
  if (encoding_) return encoding_->unit_bytes;
  if (options_.sparse_bytes == 0) return step_bytes_;
  const std::uint64_t grain = to_.grain() <= step_bytes_ ? to_.grain() : 1;
  return std::max(grain, options_.sparse_bytes);
}

/// Behind the end of a short layer below the first the source reads as zero although nobody holds that: whatever
/// lies further down does not show.
byte_range copier::masked_part() const noexcept {
  std::uint64_t from = from_.size();
  for (std::size_t depth = 1; depth < from_.chain().depth(); ++depth) {
    from = std::min(from, from_.chain().at(depth)->image->virtual_size());
  }
  return range_between(from, from_.size());
}

task<void> copier::copy_step(byte_range range) {
  const buffer_lease buffer = co_await from_.resources().buffers.acquire(range.length);
  if (options_.sparse_bytes != 0) {
    const bool settled = co_await copy_direct(range, buffer.bytes());
    if (settled) co_return;
  }
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
  note_done(range, copied);
}

/// False, with nothing done, where the target's place is not known yet; true where the step is done or failed.
task<bool> copier::copy_direct(byte_range range, std::span<std::byte> buffer) {
  const direct_step step = co_await copy_directly(from_, to_, range, buffer, granularity(), may_clone_);
  if (step.refuses_clones) may_clone_ = false;
  if (step.culprit != nullptr) fail(*step.culprit, range.offset, step.error);
  if (!step.done) co_return step.culprit != nullptr;
  std::uint64_t done_to = range.offset;
  std::uint64_t bytes = 0;
  result<void> zeroed;
  for (const byte_range run : step.copied) {
    if (zeroed) zeroed = co_await zero_between(done_to, run.offset);
    done_to = run.end();
    bytes += run.length;
  }
  if (zeroed) zeroed = co_await zero_between(done_to, range.end());
  if (!zeroed) fail(to_, range.offset, zeroed.error());
  note_done(range, bytes);
  co_return true;
}

void copier::note_done(byte_range range, std::uint64_t copied_bytes) {
  tally_.copied_bytes += copied_bytes;
  tally_.zero_bytes += range.length - copied_bytes;
  done_bytes_ += range.length;
  dirty_bytes_ += copied_bytes;
  if (dirty_bytes_ < writeback_step_bytes || writing_back_) return;
  dirty_bytes_ = 0;
  writing_back_ = true;
  steps_.spawn(write_back());
}

/// The device works while the copy goes on, instead of when it is over and flushed.
task<void> copier::write_back() {
  const std::optional<int> descriptor = to_.chain().active().image->storage_at(0).descriptor();
  if (descriptor) {
    auto work = [fd = *descriptor] {
      begin_writeback(fd);
      return true;
    };
    co_await from_.resources().workers.run(std::move(work));
  }
  writing_back_ = false;
}

task<result<void>> copier::zero_between(std::uint64_t from, std::uint64_t to) {
  const zero_flags punch;
  const byte_range range = range_between(from, to);
  if (options_.target_is_zero || range.empty()) co_return result<void>{};
  co_return co_await to_.zero(range, punch);
}

/// Writes the units of a step in order and makes zero what lies between them.
task<result<void>> copier::store_units(byte_range step, std::span<const std::byte> plain,
                                       std::span<const packed_unit> units) {
  std::uint64_t done_to = step.offset;
  const auto guest_of = [step](const packed_unit& unit) {
    return intersection({step.offset + unit.plain.offset, unit.plain.length}, step);
  };
  for (std::size_t first = 0; first < units.size();) {
    std::vector<encoded_piece> together;
    std::size_t end = first;
    for (; end < units.size() && !units[end].encoded.empty(); ++end) {
      const byte_range guest = guest_of(units[end]);
      if (!together.empty() && together.back().guest.end() != guest.offset) break;
      together.push_back({guest, units[end].encoded});
    }
    const byte_range next = guest_of(units[first]);
    const result<void> zeroed = co_await zero_between(done_to, next.offset);
    if (!zeroed) co_return zeroed;
    const result<std::size_t> placed = co_await to_.store_encoded(together);
    if (!placed) co_return placed.error();
    first += *placed;
    if (*placed > 0) done_to = guest_of(units[first - 1]).end();
    if (*placed < together.size() || together.empty()) {
      const byte_range guest = guest_of(units[first]);
      const std::vector<byte_range> whole{{0, guest.length}};
      const auto bytes = plain.subspan(units[first].plain.offset, guest.length);
      const result<void> stored = co_await to_.store(guest, bytes, whole, true);
      if (!stored) co_return stored;
      done_to = guest.end();
      ++first;
    }
  }
  co_return co_await zero_between(done_to, step.end());
}

task<void> copier::encoded_step(byte_range range, std::uint64_t turn) {
  const std::uint64_t padded = align_up(range.length, encoding_->unit_bytes);
  const buffer_lease buffer = co_await from_.resources().buffers.acquire(2 * padded);
  const std::span<std::byte> plain = buffer.bytes().first(padded);
  const std::span<std::byte> room = buffer.bytes().subspan(padded);
  std::ranges::fill(plain.subspan(range.length), std::byte{0});
  const result<std::vector<byte_range>> non_zero =
      co_await from_.read_and_scan(range, plain.first(range.length), granularity());
  if (!non_zero) fail(from_, range.offset, non_zero.error());
  result<std::vector<packed_unit>> units = std::vector<packed_unit>{};
  if (non_zero) {
    auto pack = [&] { return pack_units(*encoding_, plain, *non_zero, room); };
    units = co_await from_.resources().workers.run(std::move(pack));
    if (!units) fail(to_, range.offset, units.error());
  }
  while (turn_ != turn) co_await turned_.wait();
  if (!failed_) {
    const result<void> stored = co_await store_units(range, plain, *units);
    if (!stored) fail(to_, range.offset, stored.error());
    std::uint64_t copied = 0;
    for (const packed_unit& unit : *units) copied += unit.plain.length;
    note_done(range, std::min(copied, range.length));
  }
  ++turn_;
  turned_.notify_all();
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
    if (zero) {
      steps_.spawn(zero_step(step));
    } else if (encoding_) {
      steps_.spawn(encoded_step(step, next_turn_++));
    } else {
      steps_.spawn(copy_step(step));
    }
    run = range_between(step.end(), run.end());
  }
}

task<void> copier::copy_all() {
  // A step with some data in it is one step: filling in and finding its zeros costs less than many small steps do.
  // But nothing is filled up with what the source reads as where it holds nothing.
  grain_planner planner(options_.only_allocated ? 1 : step_bytes_, from_.size());
  byte_range rest{0, from_.size()};
  while (!rest.empty() && !failed_) {
    const result<std::vector<status_run>> runs = co_await from_.status(rest, status_runs_at_once);
    if (!runs) {
      fail(from_, rest.offset, runs.error());
      break;
    }
    for (const status_run& run : *runs) {
      const bool skips = run.zero && (options_.sparse_bytes != 0 || encoding_);
      const grain_action action = skips ? grain_action::mark_zero : grain_action::copy;
      const byte_range whole{rest.offset, run.length};
      const byte_range masked = intersection(whole, masked_);
      const byte_range open = range_between(whole.offset, whole.end() - masked.length);
      const bool leaves = options_.only_allocated && run.depth == 0;
      if (!open.empty()) planner.add(open, leaves ? grain_action::leave : action);
      if (!masked.empty()) planner.add(masked, action);
      rest = range_between(whole.end(), rest.end());
    }
    for (const grain_run& run : planner.take()) {
      if (run.action == grain_action::leave) done_bytes_ += run.range.length;
      if (run.action == grain_action::leave) continue;
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
