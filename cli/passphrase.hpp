#pragma once

#include "engine/base/error.hpp"

#include <string>

namespace weir::cli {

/// What the file at `path`, or behind the open descriptor "fd:N", holds, without one newline at its end. Failures name
/// it. At most 64 KiB.
outcome<std::string> read_passphrase(const std::string& path);

}  // namespace weir::cli
