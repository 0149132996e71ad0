#include "engine/jobs/job.hpp"

#include "tests/support/run_task.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <functional>
#include <vector>

namespace weir {
namespace {

using enum job_status;

TEST(job_state, transitions_are_those_of_qemu) {
  EXPECT_TRUE(may_follow(running, waiting));
  EXPECT_TRUE(may_follow(paused, running));
  EXPECT_FALSE(may_follow(paused, aborting));
  EXPECT_FALSE(may_follow(running, concluded));
  EXPECT_FALSE(may_follow(null, created));
}

TEST(job_state, verbs_are_accepted_where_qemu_accepts_them) {
  EXPECT_TRUE(accepts(running, job_verb::pause));
  EXPECT_FALSE(accepts(pending, job_verb::pause));
  EXPECT_TRUE(accepts(pending, job_verb::cancel));
  EXPECT_FALSE(accepts(aborting, job_verb::cancel));
  EXPECT_FALSE(accepts(running, job_verb::complete));
  EXPECT_TRUE(accepts(concluded, job_verb::dismiss));
}

class recorder final : public job_listener {
 public:
  std::vector<job_status> states;
  std::string action;
  std::function<void(const job&)> on_change;

 private:
  void on_status(const job& changed) override {
    states.push_back(changed.status());
    if (on_change) on_change(changed);
  }
  void on_ready(const job&) override {}
  void on_error(const job&, bool, std::string_view what) override { action = what; }
};

/// Ten steps; step 5 fails as often as told.
class ten_steps final : public job {
 public:
  ten_steps(executor context, job_settings settings, unsigned failures)
      : job(context, job_type::stream, "vda", std::move(settings)), failures_(failures) {}
  unsigned steps = 0;
  bool finalized = false;

 private:
  task<outcome<void>> do_run() override {
    while (steps < 10) {
      const result<void> allowed = co_await checkpoint(1);
      if (!allowed) co_return make_failure(allowed.error(), "vda");
      if (steps == 5 && failures_ > 0) {
        --failures_;
        const error_action next = co_await action_after(errno_code(ENOSPC), false);
        if (next == error_action::fail) co_return make_failure(errno_code(ENOSPC), "vda");
        if (next == error_action::retry) continue;
      }
      ++steps;
      co_await next_turn(context());
    }
    co_return outcome<void>{};
  }
  task<void> do_settle() override { co_return; }
  task<outcome<void>> do_finalize() override {
    finalized = true;
    co_return outcome<void>{};
  }
  unsigned failures_;
};

class job_test : public testing::Test {
 protected:
  boost::asio::io_context io;
  recorder seen;
  job_settings settings{.id = "j"};

  void run(ten_steps& work) {
    work.set_listener(&seen);
    test::run(io, work.run());
  }
};

TEST_F(job_test, success_goes_through_all_states) {
  ten_steps work(io.get_executor(), settings, 0);
  run(work);
  EXPECT_EQ(seen.states, (std::vector<job_status>{running, waiting, pending, concluded, null}));
  EXPECT_TRUE(work.finalized);
}

TEST_F(job_test, cancel_aborts_and_does_not_finalize) {
  ten_steps work(io.get_executor(), settings, 0);
  seen.on_change = [&](const job& changed) {
    if (changed.status() == running) EXPECT_TRUE(work.cancel());
  };
  run(work);
  EXPECT_EQ(seen.states, (std::vector<job_status>{running, aborting, concluded, null}));
  EXPECT_EQ(work.steps, 0U);
  EXPECT_FALSE(work.finalized);
  EXPECT_EQ(work.error().code, errc::cancelled);
}

TEST_F(job_test, no_step_runs_while_paused) {
  ten_steps work(io.get_executor(), settings, 0);
  bool paused_once = false;
  seen.on_change = [&](const job& changed) {
    if (changed.status() == running && !paused_once) EXPECT_TRUE(work.pause());
    if (changed.status() != paused) return;
    paused_once = true;
    run_later(io.get_executor(), [&] {
      EXPECT_EQ(work.steps, 0U);
      EXPECT_FALSE(work.pause());
      EXPECT_TRUE(work.resume());
    });
  };
  run(work);
  EXPECT_EQ(seen.states,
            (std::vector<job_status>{running, paused, running, waiting, pending, concluded, null}));
  EXPECT_EQ(work.steps, 10U);
}

TEST_F(job_test, no_space_pauses_where_the_policy_says_so_and_resume_tries_again) {
  settings.error_policy = on_error::enospc;
  ten_steps work(io.get_executor(), settings, 2);
  seen.on_change = [&](const job& changed) {
    if (changed.status() != paused) return;
    EXPECT_EQ(changed.io_status(), "nospace");
    run_later(io.get_executor(), [&] { EXPECT_TRUE(work.resume()); });
  };
  run(work);
  EXPECT_EQ(seen.action, "stop");
  EXPECT_EQ(work.steps, 10U);
  EXPECT_EQ(work.io_status(), "ok");
}

TEST_F(job_test, reported_errors_end_the_job) {
  ten_steps work(io.get_executor(), settings, 1);
  run(work);
  EXPECT_EQ(seen.action, "report");
  EXPECT_EQ(work.error().what, "vda: No space left on device");
  EXPECT_FALSE(work.finalized);
}

TEST_F(job_test, waits_to_be_finalized_and_dismissed_where_asked) {
  settings.auto_finalize = false;
  settings.auto_dismiss = false;
  ten_steps work(io.get_executor(), settings, 0);
  seen.on_change = [&](const job& changed) {
    if (changed.status() == pending) run_later(io.get_executor(), [&] { EXPECT_TRUE(work.finalize()); });
    if (changed.status() == concluded) run_later(io.get_executor(), [&] { EXPECT_TRUE(work.dismiss()); });
  };
  EXPECT_EQ(work.finalize().error().what, "Job 'j' in state 'created' cannot accept command verb 'finalize'");
  run(work);
  EXPECT_TRUE(work.finalized);
  EXPECT_EQ(seen.states.back(), null);
}

TEST(rate_limit, delays_by_what_was_charged) {
  using namespace std::chrono_literals;
  rate_limit limit;
  const rate_limit::clock::time_point start{};
  limit.charge(1000, start);
  EXPECT_EQ(limit.delay(start), 0s);
  limit.set_speed(100, start);
  limit.charge(200, start);
  EXPECT_EQ(limit.delay(start), 2s);
  EXPECT_EQ(limit.delay(start + 3s), 0s);
  limit.charge(100, start + 3s);
  EXPECT_EQ(limit.delay(start + 3s), 1s);
  limit.set_speed(0, start + 3s);
  EXPECT_EQ(limit.delay(start + 3s), 0s);
}

}  // namespace
}  // namespace weir
