#include "engine/base/worker_pool.hpp"

namespace weir {

worker_pool::worker_pool(executor engine, unsigned thread_count)
    : engine_(std::move(engine)), thread_count_(thread_count) {
  if (thread_count_ > 0) threads_.emplace(thread_count_);
}

worker_pool::~worker_pool() {
  if (threads_) threads_->join();
}

void worker_pool::submit(std::move_only_function<void()> job) {
  if (threads_) {
    boost::asio::post(*threads_, std::move(job));
  } else {
    boost::asio::post(engine_, std::move(job));
  }
}

}  // namespace weir
