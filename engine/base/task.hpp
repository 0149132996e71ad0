// The coroutine type of the whole engine: one engine is one io_context run by one thread.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace weir {

using executor = boost::asio::io_context::executor_type;

/// A lazily started coroutine that runs on the engine's thread.
template <class T>
using task = boost::asio::awaitable<T, executor>;

/// Completion token that turns an Asio operation into something to co_await inside a task.
inline constexpr boost::asio::use_awaitable_t<executor> use_task;

}  // namespace weir
