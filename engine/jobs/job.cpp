#include "engine/jobs/job.hpp"

#include <boost/asio/as_tuple.hpp>

#include <cerrno>
#include <utility>

namespace weir {

std::string_view name_of(job_type type) noexcept {
  switch (type) {
    case job_type::stream:
      return "stream";
    case job_type::mirror:
      return "mirror";
    case job_type::commit:
      return "commit";
    case job_type::backup:
      return "backup";
  }
  std::unreachable();
}

job::job(executor context, job_type type, std::string disk_name, job_settings settings)
    : executor_(context),
      type_(type),
      disk_name_(std::move(disk_name)),
      settings_(std::move(settings)),
      wake_(context),
      timer_(context) {
  limit_.set_speed(settings_.speed_bytes_per_s, rate_limit::clock::now());
}

void job::move_to(job_status next) {
  state_.move_to(next);
  if (listener_ != nullptr) listener_->on_status(*this);
}

outcome<void> job::check(job_verb verb) const {
  if (accepts(status(), verb)) return {};
  std::string text = "Job '";
  text.append(id()).append("' in state '").append(name_of(status()));
  text.append("' cannot accept command verb '").append(name_of(verb)).append("'");
  return failure{errc::not_supported, std::move(text)};
}

void job::wake() {
  timer_.cancel();
  wake_.notify_all();
}

outcome<void> job::pause() {
  const outcome<void> legal = check(job_verb::pause);
  if (!legal) return legal;
  if (pause_requested()) return failure{errc::not_supported, "The job '" + id() + "' is already paused"};
  state_.request_pause(true);
  wake();
  return {};
}

outcome<void> job::resume() {
  const outcome<void> legal = check(job_verb::resume);
  if (!legal) return legal;
  if (!pause_requested()) return failure{errc::not_supported, "The job '" + id() + "' is not paused"};
  state_.request_pause(false);
  io_status_ = "ok";
  wake();
  return {};
}

outcome<void> job::cancel() {
  const outcome<void> legal = check(job_verb::cancel);
  if (!legal) return legal;
  state_.request_cancel();
  wake();
  return {};
}

outcome<void> job::complete() {
  const outcome<void> legal = check(job_verb::complete);
  if (!legal) return legal;
  wanted_end_ = ending::complete;
  wake();
  return {};
}

outcome<void> job::finish() {
  if (status() != job_status::ready && status() != job_status::standby) return cancel();
  wanted_end_ = ending::finish;
  wake();
  return {};
}

void job::become_ready() {
  move_to(job_status::ready);
  if (listener_ != nullptr) listener_->on_ready(*this);
}

task<void> job::do_clean_up() {
  co_return;
}

outcome<void> job::finalize() {
  const outcome<void> legal = check(job_verb::finalize);
  if (!legal) return legal;
  finalize_requested_ = true;
  wake();
  return {};
}

outcome<void> job::dismiss() {
  const outcome<void> legal = check(job_verb::dismiss);
  if (!legal) return legal;
  dismiss_requested_ = true;
  wake();
  return {};
}

outcome<void> job::set_speed(std::uint64_t bytes_per_s) {
  const outcome<void> legal = check(job_verb::set_speed);
  if (!legal) return legal;
  settings_.speed_bytes_per_s = bytes_per_s;
  limit_.set_speed(bytes_per_s, rate_limit::clock::now());
  wake();
  return {};
}

void job::set_progress(std::uint64_t current_bytes, std::uint64_t total_bytes) noexcept {
  current_bytes_ = current_bytes;
  total_bytes_ = total_bytes;
}

task<void> job::stay_paused() {
  co_await do_settle();
  const job_status before = status();
  move_to(before == job_status::ready ? job_status::standby : job_status::paused);
  while (pause_requested() && !cancel_requested()) co_await wake_.wait();
  move_to(before);
}

task<result<void>> job::checkpoint(std::uint64_t bytes) {
  limit_.charge(bytes, rate_limit::clock::now());
  while (!cancel_requested()) {
    if (pause_requested()) {
      co_await stay_paused();
      continue;
    }
    const rate_limit::clock::duration delay = limit_.delay(rate_limit::clock::now());
    if (delay == rate_limit::clock::duration::zero()) co_return result<void>{};
    timer_.expires_after(delay);
    // A verb cancels the wait: look again.
    co_await timer_.async_wait(boost::asio::as_tuple(use_task));
  }
  co_return errc::cancelled;
}

task<job::error_action> job::action_after(error_code code, bool is_read) {
  const bool no_space = code == errno_code(ENOSPC);
  const bool stops =
      settings_.error_policy == on_error::stop || (settings_.error_policy == on_error::enospc && no_space);
  const bool ignores = settings_.error_policy == on_error::ignore;
  if (listener_ != nullptr)
    listener_->on_error(*this, is_read, stops ? "stop" : ignores ? "ignore" : "report");
  if (!stops) co_return ignores ? error_action::skip : error_action::fail;
  io_status_ = no_space ? "nospace" : "failed";
  state_.request_pause(true);
  const result<void> resumed = co_await checkpoint(0);
  co_return resumed ? error_action::retry : error_action::fail;
}

task<result<void>> job::wait_for_finalize() {
  while (!settings_.auto_finalize && !finalize_requested_ && !cancel_requested()) co_await wake_.wait();
  if (cancel_requested()) co_return errc::cancelled;
  co_return result<void>{};
}

task<outcome<void>> job::work_and_finalize() {
  const outcome<void> worked = co_await do_run();
  if (!worked) co_return worked;
  move_to(job_status::waiting);
  move_to(job_status::pending);
  const result<void> allowed = co_await wait_for_finalize();
  if (!allowed) co_return make_failure(allowed.error(), disk_name_);
  co_return co_await do_finalize();
}

task<void> job::run() {
  move_to(job_status::running);
  const outcome<void> done = co_await work_and_finalize();
  co_await do_clean_up();
  if (!done) {
    error_ = done.error();
    move_to(job_status::aborting);
  }
  move_to(job_status::concluded);
  while (!settings_.auto_dismiss && !dismiss_requested_) co_await wake_.wait();
  move_to(job_status::null);
}

}  // namespace weir
