#include "engine/base/worker_pool.hpp"

#include <boost/asio/post.hpp>

namespace weir {

worker_pool::worker_pool(executor engine, unsigned thread_count)
    : engine_(std::move(engine)), thread_count_(thread_count) {
  if (thread_count_ > 0) threads_.emplace(thread_count_);
}

worker_pool::~worker_pool() {
  if (threads_) threads_->join();
}

task<void> worker_pool::perform(std::move_only_function<void()> work) {
  co_await suspend_until([this, &work](resumption resume) {
    submit([this, &work, resume = std::move(resume)]() mutable {
      work();
      run_later(engine_, std::move(resume));
    });
  });
}

void worker_pool::submit(std::move_only_function<void()> job) {
  if (threads_) {
    boost::asio::post(*threads_, std::move(job));
  } else {
    run_later(engine_, std::move(job));
  }
}

}  // namespace weir
