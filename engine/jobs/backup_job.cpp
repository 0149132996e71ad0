#include "engine/jobs/backup_job.hpp"

#include "engine/block/bitmap_store.hpp"
#include "engine/copy/unit_packer.hpp"

#include <boost/asio/as_tuple.hpp>

#include <algorithm>
#include <chrono>
#include <utility>

namespace weir {
namespace {

constexpr std::uint64_t usual_granularity = 64 * KiB;
constexpr std::uint64_t usual_step_bytes = 1 * MiB;
constexpr unsigned window_steps = 8;
/// Of the steps, and of guests' changes that have to be preceded.
constexpr std::uint64_t buffer_bytes = 16 * MiB;
constexpr std::size_t status_runs_at_once = 256;
/// A target that keeps failing is not asked more often.
constexpr std::chrono::milliseconds pause_after_error{100};

/// Whole clusters of the target: parts of them would be read again.
std::uint64_t granularity_for(const disk& target) noexcept {
  const std::uint64_t unit = target.encoding() ? target.encoding()->unit_bytes : 1;
  return std::max({usual_granularity, target.grain(), unit});
}

}  // namespace

backup_job::backup_job(disk& source, std::unique_ptr<disk> target, job_settings settings,
                       backup_options options)
    : job(source.resources().context, job_type::backup, source.name(), std::move(settings)),
      source_(source),
      target_(std::move(target)),
      options_(std::move(options)),
      to_save_(source.size(), granularity_for(*target_)),
      buffers_(source.resources().context, buffer_bytes),
      saving_(source.resources().context),
      steps_(source.resources().context),
      step_bytes_(std::max(usual_step_bytes, to_save_.granularity())) {}

backup_job::~backup_job() {
  // Begun and never started, as when the engine is about to end.
  if (watching_) source_.remove_observer(*this);
}

// The instant

task<outcome<void>> backup_job::prepare() {
  if (options_.sync != backup_sync::incremental) co_return outcome<void>{};
  bitmap_store* const kept = source_.chain().active().image->bitmaps();
  const kept_bitmap* const named = kept != nullptr ? kept->find(options_.bitmap) : nullptr;
  if (named == nullptr) {
    co_return failure{errc::out_of_range,
                      "disk '" + source_.name() + "' has no bitmap '" + options_.bitmap + "'"};
  }
  const outcome<const dirty_bitmap*> bits = co_await kept->load(options_.bitmap);
  if (!bits) co_return bits.error();
  co_return outcome<void>{};
}

void backup_job::begin() {
  begun_ = true;
  if (options_.sync == backup_sync::incremental) {
    const kept_bitmap* const named = source_.chain().active().image->bitmaps()->find(options_.bitmap);
    // Removed since prepare(), it says nothing: everything is saved.
    const bool known = named != nullptr && named->bits;
    if (!known) to_save_.set({0, source_.size()});
    for (std::uint64_t at = 0; known;) {
      const std::optional<byte_range> run = named->bits->next_set(at, source_.size());
      if (!run) break;
      to_save_.set(*run);
      at = run->end();
    }
    since_.emplace(source_.size(), known ? named->granularity : to_save_.granularity());
  } else {
    to_save_.set({0, source_.size()});
  }
  source_.add_observer(*this);
  watching_ = true;
}

void backup_job::undo_begin() noexcept {
  begun_ = false;
  if (std::exchange(watching_, false)) source_.remove_observer(*this);
}

// Watching the disk

task<result<void>> backup_job::before_change(byte_range range, change_kind) {
  if (broken_) co_return result<void>{};
  const byte_range granules = intersection(align_outward(range, to_save_.granularity()), {0, source_.size()});
  const std::optional<byte_range> unsaved = to_save_.next_set(granules.offset, granules.length);
  if (!unsaved || unsaved->offset >= granules.end()) co_return result<void>{};
  const result<void> saved = co_await save(granules);
  if (saved || broken_) co_return result<void>{};
  if (options_.on_save_failure == save_failure::break_guest_write) co_return saved;
  broken_ = true;
  fail(granules, saved.error());
  co_return result<void>{};
}

task<result<void>> backup_job::after_change(byte_range range, change_kind, std::span<const std::byte>, bool) {
  if (since_) since_->set(range);
  co_return result<void>{};
}

void backup_job::fail(byte_range range, error_code code) {
  if (!failed_with_) {
    failed_range_ = range;
    failed_with_ = code;
  }
  wake();
}

// Saving

/// What of `range` is not saved yet. Precondition: whole granules; the caller is inside the disk's gate.
task<result<void>> backup_job::save(byte_range range) {
  const in_flight_ranges::hold held = co_await saving_.acquire(range);
  while (const std::optional<byte_range> found = to_save_.next_set(range.offset, step_bytes_)) {
    const byte_range run = intersection(*found, intersection(range, {0, source_.size()}));
    if (run.empty() || broken_) break;
    const result<void> saved = co_await save_held(run);
    if (!saved) co_return saved;
    to_save_.clear(run);
    saved_bytes_ += run.length;
    show_progress();
    range = range_between(run.end(), range.end());
  }
  co_return result<void>{};
}

task<result<void>> backup_job::save_held(byte_range run) {
  const buffer_lease buffer = co_await buffers_.acquire(static_cast<std::size_t>(run.length));
  const std::uint64_t granularity =
      options_.encode ? target_->encoding()->unit_bytes : std::max<std::uint64_t>(target_->grain(), 4096);
  const result<std::vector<byte_range>> non_zero =
      co_await source_.read_and_scan_inside(run, buffer.bytes(), granularity);
  if (!non_zero) co_return non_zero.error();
  if (options_.encode) co_return co_await store_encoded(run, buffer.bytes(), *non_zero);
  co_return co_await target_->store(run, buffer.bytes(), *non_zero, options_.target_is_zero);
}

task<result<void>> backup_job::store_encoded(byte_range run, std::span<const std::byte> data,
                                             std::span<const byte_range> non_zero) {
  const unit_encoding form = *target_->encoding();
  const auto length = static_cast<std::size_t>(align_up(run.length, form.unit_bytes));
  std::vector<std::byte> plain(data.begin(), data.end());
  plain.resize(length);  // the last unit may be cut short by the disk's end
  std::vector<byte_range> whole;
  for (const byte_range part : non_zero) whole.push_back(align_outward(part, form.unit_bytes));
  std::vector<std::byte> room(length);
  auto pack = [&] { return pack_units(form, plain, whole, room); };
  const result<std::vector<packed_unit>> packed = co_await source_.resources().workers.run(std::move(pack));
  if (!packed) co_return packed.error();
  if (!options_.target_is_zero) {
    const result<void> zeroed = co_await target_->zero(run, {});
    if (!zeroed) co_return zeroed;
  }
  for (const packed_unit& each : *packed) {
    const byte_range guest =
        intersection({run.offset + each.plain.offset, each.plain.length}, {0, source_.size()});
    std::size_t placed = 0;
    if (!each.encoded.empty()) {
      const encoded_piece piece{guest, each.encoded};
      const result<std::size_t> stored = co_await target_->store_encoded({&piece, 1});
      if (!stored) co_return stored.error();
      placed = *stored;
    }
    if (placed == 1) continue;
    const auto bytes = std::span(plain).subspan(static_cast<std::size_t>(each.plain.offset),
                                                static_cast<std::size_t>(guest.length));
    const result<void> written = co_await target_->write(guest.offset, bytes, {});
    if (!written) co_return written;
  }
  co_return result<void>{};
}

task<void> backup_job::save_step(byte_range range) {
  const gate::pass pass = co_await source_.enter();
  const result<void> saved = co_await save(range);
  if (!saved) fail(range, saved.error());
}

bool backup_job::is_wanted(const status_run& run) const noexcept {
  if (options_.sync == backup_sync::top) return run.depth == 1;
  return !options_.target_is_zero || !(run.zero || run.depth == 0);
}

/// What the copy does not need is not waited for. What a guest has changed since the instant has been saved before, so
/// that a status of now says nothing wrong about what is left.
task<result<void>> backup_job::leave_out_zeros() {
  for (byte_range rest{0, source_.size()}; !rest.empty() && options_.sync != backup_sync::incremental;) {
    const result<std::vector<status_run>> runs = co_await source_.status(rest, status_runs_at_once);
    if (!runs) {
      failed_range_ = rest;
      co_return runs.error();
    }
    for (const status_run& run : *runs) {
      if (!is_wanted(run)) to_save_.clear({rest.offset, run.length});
      rest = range_between(rest.offset + run.length, rest.end());
    }
    const result<void> allowed = co_await checkpoint(0);
    if (!allowed) co_return allowed;
  }
  co_return result<void>{};
}

void backup_job::show_progress() {
  set_progress(saved_bytes_, saved_bytes_ + to_save_.dirty_bytes());
}

task<result<void>> backup_job::handle_failure() {
  co_await steps_.join();
  const error_code code = std::exchange(failed_with_, {});
  if (broken_) co_return code;
  const error_action action = co_await action_after(code, false);
  if (action == error_action::fail) co_return code;
  if (cancel_requested()) co_return errc::cancelled;
  timer later(context());
  later.expires_after(pause_after_error);
  co_await later.async_wait(boost::asio::as_tuple(use_task));
  co_return result<void>{};
}

task<result<void>> backup_job::save_all() {
  std::uint64_t cursor = 0;
  while (true) {
    if (failed_with_) {
      const result<void> handled = co_await handle_failure();
      if (!handled) co_return handled;
      cursor = 0;
    }
    const std::optional<byte_range> next = to_save_.next_set(cursor, step_bytes_);
    if (!next) {
      co_await steps_.join();
      if (failed_with_) continue;
      if (to_save_.dirty_bytes() == 0) co_return result<void>{};
      cursor = 0;
      continue;
    }
    const byte_range step = intersection(*next, {0, source_.size()});
    const result<void> allowed = co_await checkpoint(step.length);
    if (!allowed) co_return allowed;
    co_await steps_.wait_until_running(window_steps - 1);
    cursor = next->end();
    steps_.spawn(save_step(step));
  }
}

// The life of the job

task<outcome<void>> backup_job::do_run() {
  if (!begun_) {
    co_await source_.drain();
    begin();
    source_.resume();
  }
  result<void> done = co_await leave_out_zeros();
  show_progress();
  if (done) done = co_await save_all();
  co_await steps_.join();
  if (done) co_return outcome<void>{};
  if (done.error() == errc::cancelled) co_return make_failure(done.error(), source_.name());
  std::string subject = source_.name();
  subject.append(": backup to ").append(target_->name());
  subject.append(" at guest offset ").append(std::to_string(failed_range_.offset));
  co_return make_failure(done.error(), subject);
}

task<void> backup_job::do_settle() {
  return steps_.join();
}

/// Precondition: drained, the copy is durable.
task<outcome<void>> backup_job::settle_bitmap() {
  if (!since_ || options_.keeps_bitmap) co_return outcome<void>{};
  bitmap_store& kept = *source_.chain().active().image->bitmaps();
  outcome<void> done = co_await kept.clear(options_.bitmap);
  if (done) done = co_await kept.merge(options_.bitmap, *since_);
  co_return done;
}

task<void> backup_job::stop_watching() {
  if (!watching_) co_return;
  // Changes under way may be inside an observer call: with the disk drained there are none.
  co_await source_.drain();
  source_.remove_observer(*this);
  watching_ = false;
  source_.resume();
}

task<outcome<void>> backup_job::do_finalize() {
  const std::string name = target_->name();
  const result<void> flushed = co_await target_->flush();
  if (!flushed) co_return make_failure(flushed.error(), name);
  co_await source_.drain();
  source_.remove_observer(*this);
  watching_ = false;
  const outcome<void> settled = co_await settle_bitmap();
  source_.resume();
  const result<void> closed = co_await std::exchange(target_, nullptr)->close();
  if (!settled) co_return settled;
  if (!closed) co_return make_failure(closed.error(), name);
  if (options_.completed) co_return options_.completed();
  co_return outcome<void>{};
}

task<void> backup_job::do_clean_up() {
  co_await stop_watching();
  co_await give_up();
}

task<void> backup_job::give_up() {
  // What the target lacks nobody counts on.
  if (target_) static_cast<void>(co_await std::exchange(target_, nullptr)->close());
  // A file that was to become the copy goes with this.
  options_.completed = nullptr;
}

}  // namespace weir
