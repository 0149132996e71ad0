#include "tests/support/run_task.hpp"

#include <exception>

namespace weir::test {

void run(boost::asio::io_context& io, task<void> work) {
  std::exception_ptr thrown;
  bool done = false;
  io.restart();
  start_task(io.get_executor(), std::move(work),
             [&](std::exception_ptr error) { thrown = error, done = true; });
  while (!done) io.run_one();
  if (thrown) std::rethrow_exception(thrown);
}

void start(boost::asio::io_context& io, task<void> work) {
  start_task(io.get_executor(), std::move(work), [](std::exception_ptr thrown) {
    if (thrown) std::rethrow_exception(thrown);
  });
}

}  // namespace weir::test
