// File I/O by an io_uring of our own.
//
// Requests made during one turn of the io_context are submitted together by a handler posted at its end, which
// also takes what completed at once (page cache hits do). Later completions make the ring's descriptor
// readable: an epoll wait on it, armed only while requests are in flight, costs one system call per batch,
// where an eventfd would cost a write per completion besides. A slot holds all the kernel needs to know of
// whom to resume; requests beyond the slots queue up, so neither queue of the ring can overflow.
#pragma once

#include "engine/storage/file_io.hpp"

namespace weir {

/// Errors: why the kernel refuses io_uring or lacks an operation (ENOSYS, EPERM, EACCES, …).
result<std::unique_ptr<file_io>> make_uring_file_io(executor context, worker_pool& workers);

}  // namespace weir
