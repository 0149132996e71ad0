#include "engine/jobs/mirror_job.hpp"

#include <boost/asio/as_tuple.hpp>

#include <algorithm>
#include <chrono>
#include <utility>

namespace weir {
namespace {

constexpr std::uint64_t usual_step_bytes = 1 * MiB;
/// Ranges that read as zero need no buffer: one step may take as much.
constexpr std::uint64_t longest_zero_step = 256 * MiB;
constexpr std::size_t status_runs_at_once = 256;
/// With so little left the disk can be drained: copying it takes no longer than a request or two.
constexpr std::uint64_t most_left_at_the_end = 4 * MiB;
/// A target that keeps failing is not asked more often.
constexpr std::chrono::milliseconds pause_after_error{100};

}  // namespace

mirror_job::mirror_job(disk& source, std::unique_ptr<disk> target, job_settings settings,
                       mirror_options options)
    : job(source.resources().context, options.commit ? job_type::commit : job_type::mirror, source.name(),
          std::move(settings)),
      source_(source),
      target_(std::move(target)),
      options_(std::move(options)),
      dirty_(source.size(), options_.granularity_bytes),
      copying_(source.resources().context),
      steps_(source.resources().context),
      step_bytes_(std::clamp(std::max(target_->grain(), options_.granularity_bytes), usual_step_bytes,
                             disk::largest_step)),
      window_steps_(
          static_cast<unsigned>(std::clamp<std::uint64_t>(options_.buffer_bytes / step_bytes_, 1, 16))),
      synchronous_(options_.mode == copy_mode::write_blocking) {}

mirror_job::~mirror_job() = default;

// Watching the disk

task<result<void>> mirror_job::before_change(byte_range, change_kind) {
  co_return result<void>{};
}

/// The guest's request never fails for the target's sake: what does not arrive there is dirty.
task<result<void>> mirror_job::after_change(byte_range range, change_kind kind,
                                            std::span<const std::byte> data, bool succeeded) {
  const bool has_content = succeeded && (kind == change_kind::zero || !data.empty());
  if (!synchronous_ || !has_content) {
    mark(range);
    co_return result<void>{};
  }
  const result<void> mirrored = co_await mirror_change(range, kind, data);
  if (!mirrored) fail(range, mirrored.error(), false);
  co_return result<void>{};
}

task<result<void>> mirror_job::mirror_change(byte_range range, change_kind kind,
                                             std::span<const std::byte> data) {
  const byte_range granules = align_outward(range, dirty_.granularity());
  const in_flight_ranges::hold held = co_await copying_.acquire(granules);
  const zero_flags punch;
  const write_flags plain;
  for (byte_range rest = range; !rest.empty();) {
    const byte_range granule =
        intersection({align_down(rest.offset, dirty_.granularity()), dirty_.granularity()}, granules);
    const bool is_dirty = dirty_.is_set(rest.offset);
    std::uint64_t end = granule.end();
    while (end < rest.end() && dirty_.is_set(end) == is_dirty) end += dirty_.granularity();
    const byte_range part = range_between(rest.offset, std::min(end, rest.end()));
    rest = range_between(part.end(), rest.end());
    // The copy takes what is dirty, and all of it: here it would be written twice.
    if (is_dirty && options_.mode == copy_mode::automatic) continue;
    result<void> done;
    if (kind == change_kind::zero) {
      done = co_await target_->zero(part, punch);
    } else {
      done =
          co_await target_->write(part.offset, data.subspan(part.offset - range.offset, part.length), plain);
    }
    if (!done) co_return done;
    dirty_.clear(part);
  }
  co_return result<void>{};
}

void mirror_job::mark(byte_range range) {
  dirty_.set(range);
  wake();
}

void mirror_job::fail(byte_range range, error_code code, bool is_read) {
  dirty_.set(range);
  if (!failed_with_) {
    failed_range_ = range;
    failed_with_ = code;
    failed_reading_ = is_read;
  }
  wake();
}

// Copying

bool mirror_job::is_wanted(const status_run& run) const noexcept {
  if (options_.sync == mirror_sync::none) return false;
  if (options_.sync == mirror_sync::top) return run.depth >= 1 && run.depth <= options_.base_depth;
  return !options_.target_is_zero || !(run.zero || run.depth == 0);
}

/// Marks what the target is to have. The guest's changes mark theirs meanwhile.
task<result<void>> mirror_job::find_work() {
  for (byte_range rest{0, source_.size()}; !rest.empty() && options_.sync != mirror_sync::none;) {
    const result<std::vector<status_run>> runs = co_await source_.status(rest, status_runs_at_once);
    if (!runs) {
      failed_range_ = rest;
      co_return runs.error();
    }
    for (const status_run& run : *runs) {
      if (is_wanted(run)) dirty_.set({rest.offset, run.length});
      rest = range_between(rest.offset + run.length, rest.end());
    }
    const result<void> allowed = co_await checkpoint(0);
    if (!allowed) co_return allowed;
  }
  co_return result<void>{};
}

/// Whole grains of the target, where they are no longer than a step: parts of them would cost reads.
byte_range mirror_job::step_around(byte_range dirty) const noexcept {
  const std::uint64_t grain = target_->grain() <= step_bytes_ ? target_->grain() : 1;
  const std::uint64_t unit = std::max(grain, dirty_.granularity());
  return intersection(align_outward(dirty, unit), {0, source_.size()});
}

void mirror_job::show_progress() {
  set_progress(done_bytes_, done_bytes_ + dirty_.dirty_bytes());
}

/// How much at the beginning of `range` reads as zero by the metadata alone, in whole granules.
task<std::uint64_t> mirror_job::zero_length(byte_range range) {
  const depth_range everywhere;
  std::uint64_t length = 0;
  while (length < range.length) {
    const byte_range rest = range_between(range.offset + length, range.end());
    const result<located_extent> found =
        co_await source_.chain().lookup(rest, everywhere, map_effort::status);
    if (!found || found->found.extent.kind != extent_kind::zero) break;
    length += found->length();
  }
  co_return length == range.length ? length : align_down(length, dirty_.granularity());
}

task<void> mirror_job::copy_step(byte_range range, bool inside) {
  const buffer_lease buffer = co_await source_.resources().buffers.acquire(range.length);
  gate::pass pass;
  if (!inside) pass = co_await source_.enter();
  const in_flight_ranges::hold held = co_await copying_.acquire(range);
  dirty_.clear(range);
  const std::uint64_t grain = target_->grain() <= step_bytes_ ? target_->grain() : 1;
  const std::uint64_t granularity = std::max<std::uint64_t>(grain, 4096);
  const result<std::vector<byte_range>> non_zero =
      co_await source_.read_and_scan_inside(range, buffer.bytes(), granularity);
  if (!non_zero) {
    fail(range, non_zero.error(), true);
    co_return;
  }
  const result<void> stored = co_await target_->store(range, buffer.bytes(), *non_zero, false);
  if (!stored) {
    fail(range, stored.error(), false);
    co_return;
  }
  done_bytes_ += range.length;
  show_progress();
}

/// What a guest wrote there since it was looked at makes it a range like any other.
task<void> mirror_job::zero_step(byte_range range) {
  const gate::pass pass = co_await source_.enter();
  const in_flight_ranges::hold held = co_await copying_.acquire(range);
  const std::uint64_t length = co_await zero_length(range);
  if (length < range.length) {
    dirty_.set(range);
    co_return;
  }
  dirty_.clear(range);
  const zero_flags punch;
  const result<void> zeroed = co_await target_->zero(range, punch);
  if (!zeroed) {
    fail(range, zeroed.error(), false);
    co_return;
  }
  done_bytes_ += range.length;
  show_progress();
}

/// Takes the next step at the beginning of `dirty`, a run of dirty granules.
task<result<void>> mirror_job::start_step(byte_range dirty) {
  const std::uint64_t zero = co_await zero_length(dirty);
  const bool is_zero = zero == dirty.length || zero > step_bytes_;
  byte_range step =
      is_zero ? byte_range{dirty.offset, zero}
              : range_between(dirty.offset,
                              std::min(dirty.end(), align_down(dirty.offset, step_bytes_) + step_bytes_));
  if (!is_zero) step = step_around(step);
  const result<void> allowed = co_await checkpoint(is_zero ? 0 : step.length);
  if (!allowed) co_return allowed;
  co_await steps_.wait_until_running(window_steps_ - 1);
  cursor_ = step.end();
  // Not found again while it waits for its turn; what fails sets it again.
  dirty_.clear(step);
  steps_.spawn(is_zero ? zero_step(step) : copy_step(step, false));
  co_return result<void>{};
}

task<result<void>> mirror_job::handle_failure() {
  co_await steps_.join();
  const error_code code = std::exchange(failed_with_, {});
  const error_action action = co_await action_after(code, failed_reading_);
  if (action == error_action::fail) co_return code;
  if (cancel_requested()) co_return errc::cancelled;
  timer later(context());
  later.expires_after(pause_after_error);
  co_await later.async_wait(boost::asio::as_tuple(use_task));
  co_return result<void>{};
}

/// Nothing dirty is left ahead: goes back to the beginning, or waits for news if there is nothing at all.
task<result<void>> mirror_job::end_pass() {
  if (cursor_ != 0) {
    cursor_ = 0;
    first_pass_ = false;
    if (options_.mode == copy_mode::automatic) synchronous_ = true;
    co_return result<void>{};
  }
  co_await steps_.join();
  if (failed_with_ || dirty_.dirty_bytes() > 0) co_return result<void>{};
  copied_all_ = is_one_phase();
  if (copied_all_) co_return result<void>{};
  if (status() == job_status::running) become_ready();
  show_progress();
  if (wanted_end() != ending::none) co_return result<void>{};
  const result<void> allowed = co_await checkpoint(0);
  if (!allowed) co_return allowed;
  const bool idle = dirty_.dirty_bytes() == 0 && !failed_with_ && wanted_end() == ending::none;
  if (idle && !pause_requested() && !cancel_requested()) co_await wait_for_wake();
  co_return result<void>{};
}

/// Copies until the job is told to end and little is left.
task<result<void>> mirror_job::mirror_all() {
  while (true) {
    if (failed_with_) {
      const result<void> handled = co_await handle_failure();
      if (!handled) co_return handled;
    }
    if (wanted_end() != ending::none) {
      synchronous_ = true;
      if (dirty_.dirty_bytes() <= most_left_at_the_end) co_return result<void>{};
    }
    if (copied_all_) co_return result<void>{};
    const std::optional<byte_range> next = dirty_.next_set(cursor_, longest_zero_step);
    const result<void> went = next ? co_await start_step(*next) : co_await end_pass();
    if (!went) co_return went;
  }
}

/// Precondition: the disk is drained and no step is in flight.
task<result<void>> mirror_job::copy_rest() {
  failed_with_ = {};
  while (const std::optional<byte_range> next = dirty_.next_set(0, step_bytes_)) {
    co_await copy_step(step_around(*next), true);
    if (failed_with_) co_return failed_with_;
  }
  co_return result<void>{};
}

// The life of the job

task<outcome<void>> mirror_job::do_run() {
  source_.add_observer(*this);
  watching_ = true;
  result<void> done = co_await find_work();
  show_progress();
  if (done) done = co_await mirror_all();
  co_await steps_.join();
  if (done) co_return outcome<void>{};
  if (done.error() == errc::cancelled) co_return make_failure(done.error(), source_.name());
  std::string subject = source_.name();
  subject.append(options_.commit ? ": committing to " : ": mirroring to ").append(target_->name());
  subject.append(failed_reading_ ? ": reading" : ": writing");
  subject.append(" at guest offset ").append(std::to_string(failed_range_.offset));
  co_return make_failure(done.error(), subject);
}

task<void> mirror_job::do_settle() {
  return steps_.join();
}

task<outcome<void>> mirror_job::do_finalize() {
  co_await source_.drain();
  result<void> done = co_await copy_rest();
  if (done) done = co_await target_->flush();
  const bool changes = done && wanted_end() == ending::complete;
  source_.remove_observer(*this);
  watching_ = false;
  if (changes) {
    replaced_ = source_.exchange_layers(target_->chain().layers());
    target_.reset();
  }
  source_.resume();
  if (!done) {
    co_return make_failure(done.error(),
                           source_.name() + ": the last part of the copy to " + target_->name());
  }
  if (is_one_phase()) co_return co_await options_.commit->finish();
  if (changes && options_.chain_changed) co_return options_.chain_changed(source_);
  if (changes) co_return outcome<void>{};
  co_return co_await give_up_target();
}

/// Closes it, unless its layers are the disk's.
task<outcome<void>> mirror_job::give_up_target() {
  const std::unique_ptr<disk> given_up = std::move(target_);
  if (options_.commit) co_return outcome<void>{};
  const result<void> closed = co_await given_up->close();
  if (!closed) co_return make_failure(closed.error(), given_up->name());
  co_return outcome<void>{};
}

task<void> mirror_job::do_clean_up() {
  if (watching_) {
    // Changes under way may be inside an observer call: with the disk drained there are none.
    co_await source_.drain();
    source_.remove_observer(*this);
    watching_ = false;
    source_.resume();
  }
  // What the target lacks nobody counts on.
  if (target_) static_cast<void>(co_await give_up_target());
  const auto& kept = source_.chain().layers();
  for (const std::shared_ptr<layer>& each : replaced_) {
    if (std::ranges::find(kept, each) != kept.end()) continue;
    // Nothing is missing from the copy: what an error here could lose is in a chain that nobody uses any more.
    static_cast<void>(co_await each->image->close());
    if (options_.commit && !error().code) options_.commit->dropped(each->model);
  }
  if (options_.commit) co_await options_.commit->clean_up();
}

}  // namespace weir
