// The image that a mirror job writes: made, or there already.
#pragma once

#include "cli/engine_host.hpp"
#include "engine/control/engine_control.hpp"

#include <memory>

namespace weir::cli {

/// Opens request.target for writing, with the chain below it, after making it where it is not to exist yet: a new image
/// of the disk's size over the layer at request.options.base_depth (mirror_sync::top), or over nothing. Says in
/// request.options whether it is known to read as zero. What was made is removed on failure. Errors: a target that
/// exists and should not, or has another size.
task<outcome<std::unique_ptr<disk>>> open_mirror_target(engine_host& host, const disk& source,
                                                        mirror_request& request, opener_settings storage);

}  // namespace weir::cli
