// What to do with a request before any of it is executed: pure, so that every refusal is tested without I/O.
// Source: NBD specification, "Transmission", "Request types", "Command flags", "Error values".
#pragma once

#include "engine/base/error.hpp"
#include "engine/nbd/handshake.hpp"
#include "engine/nbd/protocol.hpp"

#include <cstdint>
#include <string_view>

namespace weir::nbd {

struct ruling {
  enum class action : std::uint8_t {
    execute,
    refuse,      ///< drop the payload, answer `error`
    disconnect,  ///< the client said good-bye: finish what is in flight
    close,       ///< the stream makes no sense any more, or its payload is too long to skip
  };
  action what = action::execute;
  wire_error error = wire_error::none;
  std::string_view why = {};      ///< static text
  std::uint32_t payload = 0;      ///< bytes that follow the header
  std::uint32_t reply_bytes = 0;  ///< most bytes the answer carries: what it may occupy
};

/// `shutting_down` refuses everything that can be refused.
ruling rule_on(const request& asked, const session_terms& terms, bool shutting_down) noexcept;

/// The error number a client sees for `code`. `fast_zero`: the request asked for fast zeroing only, the one
/// case in which "not supported" may be answered.
wire_error wire_error_of(error_code code, bool fast_zero) noexcept;

/// A few words for an error chunk.
std::string_view describe(wire_error error) noexcept;

}  // namespace weir::nbd
