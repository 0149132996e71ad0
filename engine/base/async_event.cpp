#include "engine/base/async_event.hpp"

namespace weir {

task<void> async_event::wait() {
  return suspend_until([this](resumption resume) { waiters_.push_back(std::move(resume)); });
}

void async_event::notify_all() {
  std::deque<resumption> woken;
  woken.swap(waiters_);
  for (auto& resume : woken) run_later(executor_, std::move(resume));
}

}  // namespace weir
