// Storage on a server's NBD export, through libnbd.
//
// Requests are cut to what the server takes and spread over the connections. One that a lost connection leaves unanswered is sent
// again on another: all kinds may be repeated, since the caller keeps overlapping changes apart. After an outage the
// server may have lost what it had answered but not flushed (it may have been restarted), so the first flush that
// should have covered such changes fails with EIO, once, instead of promising what nobody knows.
//
// What base:allocation tells is never read over the wire when the export is opened for reading only: it is learnt in
// large steps and kept (engine/storage/allocation_map.hpp). Where the server wants aligned requests, the rest is read,
// changed and written back with the blocks held.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/base/worker_pool.hpp"
#include "engine/storage/nbd_target.hpp"
#include "engine/storage/storage.hpp"

#include <memory>

namespace weir {

/// Connects. Failures name target.location: not reachable, no such export, read_only for an export that cannot be written
/// although `writable` is asked for. Precondition: `workers` outlives the storage.
task<outcome<std::unique_ptr<storage>>> open_nbd_storage(executor context, worker_pool& workers,
                                                         nbd_target target, nbd_client_settings settings,
                                                         bool writable);

}  // namespace weir
