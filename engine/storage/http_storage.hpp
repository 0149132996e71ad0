// Storage on a web server's object, over http or https, for reading only.
//
// Every request costs a round trip, so none is small: what is read in little pieces comes from a bounded cache of blocks,
// filled by transfers of up to a megabyte that join the missing blocks of a read and, for readers in sequence, go ahead of
// them. Large reads go past the cache, in pieces side by side, straight into the caller's buffer. A block that is
// on its way is waited for, never asked for twice. What makes a transfer trustworthy is engine/storage/http_source.hpp's.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/http_target.hpp"
#include "engine/storage/storage.hpp"

#include <memory>

namespace weir {

/// Asks for the beginning of the object. Failures name target.location: not reachable, no such object, access denied,
/// no range requests, no size, a certificate that does not hold. No secret is ever part of them.
task<outcome<std::unique_ptr<storage>>> open_http_storage(executor context, http_target target,
                                                          http_client_settings settings);

}  // namespace weir
