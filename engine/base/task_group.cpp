#include "engine/base/task_group.hpp"

namespace weir {

void task_group::spawn(task<void> work) {
  ++running_;
  start_task(executor_, std::move(work), [this](std::exception_ptr thrown) {
    if (thrown && !thrown_) thrown_ = thrown;
    --running_;
    ended_.notify_all();
  });
}

task<void> task_group::wait_until_running(unsigned most) {
  while (running_ > most) co_await ended_.wait();
}

task<void> task_group::join() {
  co_await wait_until_running(0);
  if (thrown_) std::rethrow_exception(std::exchange(thrown_, nullptr));
}

}  // namespace weir
