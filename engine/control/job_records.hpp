// Records of running jobs in a directory, so that the next serve goes on with them: one small JSON file per job,
// replaced atomically and durably, removed when the job has ended. A job that was only stopped because serve ends
// keeps its record.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/base/task_group.hpp"
#include "engine/base/worker_pool.hpp"
#include "engine/control/engine_control.hpp"
#include "engine/jobs/job_manager.hpp"

#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

/// The record's text, and what it says; failures say what is wrong with it.
std::string encode_job_record(const stream_request& request);
outcome<stream_request> decode_job_record(std::string_view text);

class job_records final : private job_observer {
 public:
  /// Creates the directory (mode 0700) if it is not there. Failures name it.
  static outcome<std::unique_ptr<job_records>> open(std::string directory, executor context,
                                                    worker_pool& workers, job_manager& jobs);
  ~job_records() override;
  job_records(const job_records&) = delete;
  job_records& operator=(const job_records&) = delete;

  struct found_records {
    std::vector<stream_request> requests;
    std::vector<failure> problems;  ///< files that are no records; they are left alone
  };
  /// What an earlier run left. Blocks.
  outcome<found_records> load() const;

  /// The job of this request is about to start: what is recorded of it.
  void expect(const stream_request& request);
  /// Waits until all changes are on disk.
  task<void> settle();
  /// Why the latest change could not be written, once.
  std::optional<failure> take_problem();

 private:
  job_records(std::string directory, executor context, worker_pool& workers, job_manager& jobs);

  struct change {
    std::string file;
    std::optional<std::string> text;  ///< nothing: remove
  };

  void on_job_status(const job& changed) override;
  void on_job_ready(const job&) override {}
  void on_job_error(const job&, bool, std::string_view) override {}
  void on_job_speed(const job& changed) override;

  void write(const stream_request& request);
  void submit(change next);
  task<void> write_changes();

  std::string directory_;
  worker_pool& workers_;
  job_manager& jobs_;
  std::map<std::string, stream_request> by_id_;
  std::deque<change> changes_;
  std::optional<failure> problem_;
  task_group tasks_;
};

}  // namespace weir
