// Tasks that run side by side and are waited for together.
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/task.hpp"

#include <cassert>
#include <exception>
#include <utility>

namespace weir {

/// join() must have returned before the group is destroyed.
class task_group {
 public:
  explicit task_group(executor context) : executor_(context), ended_(std::move(context)) {}
  ~task_group() { assert(running_ == 0); }
  task_group(const task_group&) = delete;
  task_group& operator=(const task_group&) = delete;

  /// Starts `work` at a later turn. An exception that leaves it is rethrown by join().
  void spawn(task<void> work);

  unsigned running() const noexcept { return running_; }

  /// Waits until at most `most` tasks run.
  task<void> wait_until_running(unsigned most);

  task<void> join();

 private:
  executor executor_;
  async_event ended_;
  std::exception_ptr thrown_;
  unsigned running_ = 0;
};

}  // namespace weir
