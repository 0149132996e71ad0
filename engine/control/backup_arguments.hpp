// What drive-backup and blockdev-backup ask for, by themselves and in a transaction.
#pragma once

#include "engine/control/engine_control.hpp"
#include "engine/control/qmp_reply.hpp"

#include <boost/json/object.hpp>

#include <cstdint>

namespace weir {

enum class backup_command : std::uint8_t { drive, blockdev };

/// Errors: what QEMU says of wrong arguments; a disk that is not there.
qmp_result<backup_request> decode_backup(engine_control& engine, const boost::json::object& arguments,
                                         backup_command command);

}  // namespace weir
