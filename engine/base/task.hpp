// The coroutine type of the whole engine, and how tasks start, wait and go on: one engine is one io_context run by one
// thread. What Asio makes of these is compiled once, in task.cpp.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <exception>
#include <functional>

namespace weir {

using executor = boost::asio::io_context::executor_type;

/// A lazily started coroutine that runs on the engine's thread.
template <class T>
using task = boost::asio::awaitable<T, executor>;

/// Completion token that turns an Asio operation into something to co_await inside a task.
inline constexpr boost::asio::use_awaitable_t<executor> use_task;

/// Continues a suspended task.
using resumption = std::move_only_function<void()>;

/// Runs `job` at a later turn of the executor.
void run_later(const executor& context, resumption job);

/// Starts `work` at a later turn of the executor; `ended` is called with what it threw, if anything. What `ended` throws
/// leaves the io_context's run.
void start_task(const executor& context, task<void> work,
                std::move_only_function<void(std::exception_ptr)> ended);

/// Suspends the calling task and hands `park` a function that resumes it. The function must be called exactly
/// once, from the engine's thread, and not from inside `park` itself (run it later).
task<void> suspend_until(std::move_only_function<void(resumption)> park);

/// Lets everyone else on the executor have a turn.
task<void> next_turn(executor context);

}  // namespace weir
