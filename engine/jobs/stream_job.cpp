#include "engine/jobs/stream_job.hpp"

#include "engine/jobs/recorded_name.hpp"

#include <algorithm>
#include <cerrno>

namespace weir {
namespace {

constexpr std::uint64_t longest_step_bytes = 1 * MiB;
constexpr unsigned window_steps = 8;
/// Under a speed limit a step takes at most this part of a second.
constexpr std::uint64_t steps_per_second = 8;

}  // namespace

stream_job::stream_job(disk& target, job_settings settings, stream_options options)
    : job(target.resources().context, job_type::stream, target.name(), std::move(settings)),
      disk_(target),
      options_(std::move(options)),
      base_(options_.base_depth < target.chain().depth() ? target.chain().at(options_.base_depth) : nullptr),
      steps_(target.resources().context) {
  set_progress(0, target.size());
}

std::size_t stream_job::base_depth() const noexcept {
  const auto& layers = disk_.chain().layers();
  const auto found = std::ranges::find(layers, base_);
  return static_cast<std::size_t>(found - layers.begin());
}

std::uint64_t stream_job::step_bytes() const noexcept {
  const std::uint64_t speed = settings().speed_bytes_per_s;
  return speed == 0 ? longest_step_bytes
                    : std::clamp<std::uint64_t>(speed / steps_per_second, 1, longest_step_bytes);
}

task<void> stream_job::do_settle() {
  co_await steps_.join();
}

task<void> stream_job::copy_step(byte_range range) {
  const result<populated> done = co_await disk_.populate(range, base_depth());
  if (done) {
    done_bytes_ += range.length;
    set_progress(std::min(done_bytes_, disk_.size()), disk_.size());
    co_return;
  }
  // The lowest failed range counts: the search goes on from there and skips what is done.
  if (!failed_with_ || range.offset < failed_range_.offset) {
    failed_range_ = range;
    failed_with_ = done.error();
  }
}

task<result<void>> stream_job::handle_failed_step() {
  co_await steps_.join();
  const error_code code = std::exchange(failed_with_, {});
  const error_action action = co_await action_after(code, code != errno_code(ENOSPC));
  if (action == error_action::fail) co_return code;
  next_offset_ = action == error_action::retry ? failed_range_.offset : failed_range_.end();
  if (action == error_action::skip && !skipped_error_) skipped_error_ = code;
  co_return result<void>{};
}

task<result<void>> stream_job::stream_all() {
  while (true) {
    if (failed_with_) {
      const result<void> handled = co_await handle_failed_step();
      if (!handled) co_return handled;
    }
    const result<byte_range> found =
        co_await disk_.find_to_populate(next_offset_, base_depth(), step_bytes());
    if (!found) {
      if (!failed_with_) {
        const byte_range rest{next_offset_, disk_.size() - next_offset_};
        failed_range_ = intersection({next_offset_, disk_.chain().active().image->grain()}, rest);
        failed_with_ = found.error();
      }
      continue;
    }
    if (found->empty()) {
      co_await steps_.join();
      if (!failed_with_) break;
      continue;
    }
    done_bytes_ += found->offset - next_offset_;
    const result<void> allowed = co_await checkpoint(found->length);
    if (!allowed) co_return allowed;
    co_await steps_.wait_until_running(window_steps - 1);
    next_offset_ = found->end();
    steps_.spawn(copy_step(*found));
  }
  set_progress(disk_.size(), disk_.size());
  if (skipped_error_) co_return skipped_error_;
  co_return result<void>{};
}

task<outcome<void>> stream_job::do_run() {
  const result<void> done = co_await stream_all();
  co_await steps_.join();
  if (done) co_return outcome<void>{};
  if (done.error() == errc::cancelled) co_return make_failure(done.error(), disk_.name());
  std::string subject = disk_.name();
  subject.append(": streaming at guest offset ").append(std::to_string(failed_range_.offset));
  co_return make_failure(done.error(), subject);
}

std::optional<backing_reference> stream_job::new_backing() const {
  if (!base_) return std::nullopt;
  const std::string name = options_.backing_name.value_or(name_to_record(base_->model.source));
  return backing_reference{name, std::string(base_->image->format()), false};
}

/// The layers that are no longer part of the chain, still open. Precondition: the disk is drained.
task<result<stream_job::dropped_layers>> stream_job::change_chain() {
  weir::chain& layers = disk_.chain_for_change();
  const result<void> rewritten = co_await layers.active().image->set_backing(new_backing());
  if (!rewritten) co_return rewritten.error();
  const std::size_t base = base_depth();
  const auto& old = layers.layers();
  std::vector<std::shared_ptr<layer>> kept{old.front()};
  kept.insert(kept.end(), old.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(base, 1)),
              old.end());
  dropped_layers dropped(old.begin() + 1,
                         old.begin() + static_cast<std::ptrdiff_t>(std::max<std::size_t>(base, 1)));
  if (base_ && options_.backing_name) base_->model.recorded_name = *options_.backing_name;
  layers.replace_layers(std::move(kept));
  co_return dropped;
}

task<outcome<void>> stream_job::do_finalize() {
  if (disk_.chain().depth() == 1 || base_depth() == 1) co_return outcome<void>{};
  co_await disk_.drain();
  const result<dropped_layers> changed = co_await change_chain();
  disk_.resume();
  if (!changed) {
    const std::string subject =
        disk_.name() + ": rewriting the backing link of " + describe(disk_.chain().active().model.source);
    co_return make_failure(changed.error(), subject);
  }
  // The guest goes on meanwhile: a layer on a server that is gone takes its time to close.
  for (const std::shared_ptr<layer>& each : *changed) {
    // Read-only: nothing can be lost by an error here.
    static_cast<void>(co_await each->image->close());
  }
  if (!options_.chain_changed) co_return outcome<void>{};
  co_return options_.chain_changed(disk_);
}

}  // namespace weir
