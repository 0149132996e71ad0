// Runs a coroutine in virtual time: `auto value = run_simulation(io, clock, some_task())`.
#pragma once

#include "engine/base/task.hpp"
#include "engine/base/virtual_clock.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>

#include <functional>
#include <optional>
#include <utility>

namespace weir::test {

/// Runs everything that is ready, then jumps to the next due event, until `finished()`. Throws when nothing
/// is ready and nothing is due: a deadlock. Nothing outside may wake the simulation: use worker_pool(…, 0).
void run_simulation_until(boost::asio::io_context& io, virtual_clock& clock,
                          const std::function<bool()>& finished);

/// Runs the simulation until `work` is done; rethrows what it throws. Other tasks spawned on `io` run along and may be
/// unfinished on return.
void run_simulation(boost::asio::io_context& io, virtual_clock& clock, task<void> work);

/// The same for work that has a value, which is returned.
template <class T>
T run_simulation(boost::asio::io_context& io, virtual_clock& clock, task<T> work) {
  std::optional<T> value;
  run_simulation(io, clock, keep(std::move(work), value));
  return std::move(*value);
}

}  // namespace weir::test
