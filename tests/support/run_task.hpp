// Runs a coroutine to its end on an io_context of its own turn: `auto value = run(io, some_task())`.
#pragma once

#include "engine/base/task.hpp"

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>

#include <exception>
#include <optional>
#include <type_traits>

namespace weir::test {

/// Runs `io` until `work` is done and returns its value; rethrows what it throws. Hangs (until the test's
/// time-out) if nothing ever wakes the work.
template <class T>
T run(boost::asio::io_context& io, task<T> work) {
  std::exception_ptr thrown;
  bool done = false;
  io.restart();
  if constexpr (std::is_void_v<T>) {
    boost::asio::co_spawn(io, std::move(work),
                          [&](std::exception_ptr error) { thrown = error, done = true; });
    while (!done) io.run_one();
    if (thrown) std::rethrow_exception(thrown);
  } else {
    std::optional<T> value;
    boost::asio::co_spawn(io, std::move(work), [&](std::exception_ptr error, T answer) {
      thrown = error, done = true;
      if (!error) value.emplace(std::move(answer));
    });
    while (!done) io.run_one();
    if (thrown) std::rethrow_exception(thrown);
    return std::move(*value);
  }
}

}  // namespace weir::test
