// Owns the jobs of one engine: at most one per disk, each with an id of its own. Starts them, tells observers
// of every change and forgets them once they are dismissed.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/jobs/job.hpp"

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weir {

/// Told on the engine's thread, in the order things happen; must not suspend, and must not add or remove
/// observers from inside a call.
class job_observer {
 public:
  virtual ~job_observer() = default;
  virtual void on_job_status(const job& changed) = 0;
  virtual void on_job_ready(const job& changed) = 0;
  /// See job_listener::on_error.
  virtual void on_job_error(const job& failed, bool is_read, std::string_view action) = 0;
  virtual void on_job_speed(const job& changed) = 0;
};

class job_manager final : private job_listener {
 public:
  explicit job_manager(executor context);
  ~job_manager() override;
  job_manager(const job_manager&) = delete;
  job_manager& operator=(const job_manager&) = delete;

  /// What start() would refuse, before anything is built. Errors: the id is not well formed or in use, or the
  /// disk has a job already.
  outcome<void> may_start(std::string_view id, std::string_view disk_name) const;
  /// Keeps others from starting a job on the disk while one is built for it. Precondition: may_start() allowed it;
  /// the manager outlives what is returned.
  class reservation;
  reservation reserve(std::string disk_name);
  /// Takes the job over and runs it; it goes through `created` and `running` before this returns or at a
  /// later turn. Errors: as may_start.
  outcome<void> start(std::unique_ptr<job> created);

  /// The job with that id, or null.
  job* find(std::string_view id) noexcept;
  /// The job that holds the disk, or null. A concluded job holds it no longer.
  job* find_by_disk(std::string_view disk_name) noexcept;
  /// In the order they were started.
  std::vector<job*> jobs() const;

  /// As job::set_speed, and tells the observers.
  outcome<void> set_speed(job& changed, std::uint64_t bytes_per_s);

  void add_observer(job_observer& observer);
  void remove_observer(job_observer& observer) noexcept;

  /// Suspends until no job called `id` is left.
  task<void> wait_until_gone(std::string_view id);
  /// Cancels every job and waits until all have ended. Nothing may be started afterwards. Observers can tell
  /// such an end by stopping().
  task<void> stop();
  bool stopping() const noexcept { return stopping_; }

 private:
  void on_status(const job& changed) override;
  void on_ready(const job& changed) override;
  void on_error(const job& failed, bool is_read, std::string_view action) override;

  static task<void> run(job_manager* manager, job* started);

  executor executor_;
  std::vector<std::unique_ptr<job>> jobs_;
  std::vector<job_observer*> observers_;
  std::set<std::string, std::less<>> reserved_;  // disks
  async_event removed_;
  bool stopping_ = false;
};

class job_manager::reservation {
 public:
  reservation(job_manager& owner, std::string disk_name) : owner_(&owner), disk_name_(std::move(disk_name)) {
    owner_->reserved_.insert(disk_name_);
  }
  reservation(const reservation&) = delete;
  reservation& operator=(const reservation&) = delete;
  ~reservation() { end(); }
  /// To be called right before start().
  void end() noexcept {
    if (owner_ != nullptr) std::exchange(owner_, nullptr)->reserved_.erase(disk_name_);
  }

 private:
  job_manager* owner_;
  std::string disk_name_;
};

/// QEMU's rule (id_wellformed): a letter, then letters, digits, '-', '.' and '_'.
bool is_well_formed_id(std::string_view id) noexcept;

}  // namespace weir
