// Runs a coroutine to its end on an io_context of its own turn: `auto value = run(io, some_task())`.
#pragma once

#include "engine/base/task.hpp"

#include <boost/asio/io_context.hpp>

#include <optional>
#include <utility>

namespace weir::test {

/// Waits for `work` and keeps its value.
template <class T>
task<void> keep(task<T> work, std::optional<T>& into) {
  into.emplace(co_await std::move(work));
}

/// Runs `io` until `work` is done; rethrows what it throws. Hangs (until the test's time-out) if nothing ever wakes the
/// work.
void run(boost::asio::io_context& io, task<void> work);

/// The same for work that has a value, which is returned.
template <class T>
T run(boost::asio::io_context& io, task<T> work) {
  std::optional<T> value;
  run(io, keep(std::move(work), value));
  return std::move(*value);
}

/// Starts `work` and waits for nothing; what it throws leaves the io_context's run.
void start(boost::asio::io_context& io, task<void> work);

}  // namespace weir::test
