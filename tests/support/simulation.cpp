#include "tests/support/simulation.hpp"

#include <exception>
#include <stdexcept>

namespace weir::test {

void run_simulation_until(boost::asio::io_context& io, virtual_clock& clock,
                          const std::function<bool()>& finished) {
  for (;;) {
    io.restart();
    const auto ran = io.poll();
    if (finished()) return;
    if (ran == 0 && !clock.advance()) {
      throw std::logic_error("deadlock: nothing is ready and nothing is due");
    }
  }
}

void run_simulation(boost::asio::io_context& io, virtual_clock& clock, task<void> work) {
  std::exception_ptr thrown;
  bool done = false;
  start_task(io.get_executor(), std::move(work),
             [&](std::exception_ptr error) { thrown = error, done = true; });
  run_simulation_until(io, clock, [&done] { return done; });
  if (thrown) std::rethrow_exception(thrown);
}

}  // namespace weir::test
