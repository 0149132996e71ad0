// What OpenSSL says went wrong, in words.
#pragma once

#include "engine/base/error.hpp"

#include <string>
#include <string_view>

namespace weir::nbd {

/// The first reason of this thread's error queue, which is cleared; `otherwise` where it is empty.
std::string take_tls_reason(std::string_view otherwise);
/// The same about `subject`.
failure tls_failure(std::string_view subject);

}  // namespace weir::nbd
