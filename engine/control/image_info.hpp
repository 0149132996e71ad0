// Images as JSON (QEMU's ImageInfo, qapi/block-core.json), for `weir info` and query-named-block-nodes.
#pragma once

#include "engine/block/chain.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <cstddef>
#include <string>

namespace weir {

/// The layer alone, with qemu-img's keys. Backing keys are filled from what the image records;
/// "full-backing-filename" only where `below` (the opened backing layer) is given.
boost::json::object image_info(const layer& described, const layer* below);

/// The image's internal snapshots as a list of QEMU's SnapshotInfo.
boost::json::array snapshot_list(image& described);

/// image_info() for `depth` and, nested as "backing-image", everything below it.
boost::json::object nested_image_info(const chain& layers, std::size_t depth);

}  // namespace weir
