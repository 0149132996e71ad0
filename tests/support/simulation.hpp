// Runs a coroutine in virtual time: `auto value = run_simulation(io, clock, some_task())`.
#pragma once

#include "engine/base/task.hpp"
#include "engine/base/virtual_clock.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <exception>
#include <optional>
#include <stdexcept>
#include <type_traits>

namespace weir::test {

/// Runs everything that is ready, then jumps to the next due event, until `finished()`. Throws when nothing
/// is ready and nothing is due: a deadlock. Nothing outside may wake the simulation: use worker_pool(…, 0).
template <class Finished>
void run_simulation_until(boost::asio::io_context& io, virtual_clock& clock, const Finished& finished) {
  for (;;) {
    io.restart();
    const auto ran = io.poll();
    if (finished()) return;
    if (ran == 0 && !clock.advance()) {
      throw std::logic_error("deadlock: nothing is ready and nothing is due");
    }
  }
}

/// Runs the simulation until `work` is done and returns its value; rethrows what it throws. Other tasks
/// spawned on `io` run along and may be unfinished on return.
template <class T>
T run_simulation(boost::asio::io_context& io, virtual_clock& clock, task<T> work) {
  std::exception_ptr thrown;
  bool done = false;
  const auto finished = [&done] { return done; };
  if constexpr (std::is_void_v<T>) {
    boost::asio::co_spawn(io, std::move(work),
                          [&](std::exception_ptr error) { thrown = error, done = true; });
    run_simulation_until(io, clock, finished);
    if (thrown) std::rethrow_exception(thrown);
  } else {
    std::optional<T> value;
    boost::asio::co_spawn(io, std::move(work), [&](std::exception_ptr error, T answer) {
      thrown = error, done = true;
      if (!error) value.emplace(std::move(answer));
    });
    run_simulation_until(io, clock, finished);
    if (thrown) std::rethrow_exception(thrown);
    return std::move(*value);
  }
}

}  // namespace weir::test
