// Internal snapshots as the table that qemu-img prints.
#pragma once

#include <boost/json/array.hpp>

#include <string>

namespace weir::cli {

/// `snapshots` as engine/control/image_info.hpp lists them. Control characters in names become '?'.
std::string snapshot_table(const boost::json::array& snapshots);

}  // namespace weir::cli
