// Storage on a server's NBD export, through libnbd.
//
// Requests are cut to what the server takes and spread over the connections. One that a lost connection leaves unanswered is
// sent again on another: all kinds may be repeated, since the caller keeps overlapping changes apart. A request that
// has lost its connection `most_losses` times, or is still unanswered reconnect_limit after the first of them, fails
// with EIO: it may be what kills the server.
//
// With any lost connection the server may have been restarted and have lost what it had answered but not flushed, so
// the first flush that should have covered such changes fails with EIO, once, instead of promising what nobody knows.
// Flushes that arrive while one is under way share the next, and its result.
//
// A change is sent twice when its connection is lost. A server that is gone cannot carry out the first one any more; one
// that merely hung may, after the second one has been answered, and so overtake a later change of the same bytes.
// NBD knows no way to call a request back. What is done about it: a connection with changes under way is
// given up only after stalls_of_a_change silent periods, with its socket shut down both ways, upon which servers drop what
// they have not begun. What a server has begun and holds longer than that is not guarded against.
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
