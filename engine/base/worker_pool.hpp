// Threads that compute on values only: they see buffers, descriptors and numbers, never engine objects.
#pragma once

#include "engine/base/task.hpp"

#include <boost/asio/thread_pool.hpp>

#include <concepts>
#include <functional>
#include <optional>
#include <utility>

namespace weir {

class worker_pool {
 public:
  /// `thread_count` 0 runs the work on the engine's thread, at a later turn: deterministic, for simulations.
  worker_pool(executor engine, unsigned thread_count);
  ~worker_pool();
  worker_pool(const worker_pool&) = delete;
  worker_pool& operator=(const worker_pool&) = delete;

  unsigned thread_count() const noexcept { return thread_count_; }

  /// Runs `work` on a worker and resumes with what it returns. Everything it captures must stay valid until
  /// then and must not be touched by the engine meanwhile.
  template <std::invocable Work>
  task<std::invoke_result_t<Work>> run(Work work) {
    std::optional<std::invoke_result_t<Work>> answer;
    co_await perform([&work, &answer] { answer.emplace(work()); });
    co_return std::move(*answer);
  }

 private:
  task<void> perform(std::move_only_function<void()> work);
  void submit(std::move_only_function<void()> job);

  executor engine_;
  unsigned thread_count_;
  std::optional<boost::asio::thread_pool> threads_;
};

}  // namespace weir
