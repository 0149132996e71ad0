#include "engine/base/task.hpp"

#include <boost/asio/async_result.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/post.hpp>

#include <utility>

namespace weir {

void run_later(const executor& context, resumption job) {
  boost::asio::post(context, std::move(job));
}

void start_task(const executor& context, task<void> work,
                std::move_only_function<void(std::exception_ptr)> ended) {
  boost::asio::co_spawn(context, std::move(work), std::move(ended));
}

task<void> suspend_until(std::move_only_function<void(resumption)> park) {
  return boost::asio::async_initiate<const boost::asio::use_awaitable_t<executor>, void()>(
      [](auto handler, std::move_only_function<void(resumption)> parked) {
        parked([handler = std::move(handler)]() mutable { std::move(handler)(); });
      },
      use_task, std::move(park));
}

task<void> next_turn(executor context) {
  return suspend_until([context](resumption resume) { run_later(context, std::move(resume)); });
}

}  // namespace weir
