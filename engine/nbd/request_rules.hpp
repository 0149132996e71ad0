// What to do with a request before any of it is executed: pure, so that every refusal is tested without I/O.
// Source: NBD specification, "Transmission", "Request types", "Command flags", "Error values".
#pragma once

#include "engine/base/error.hpp"
#include "engine/nbd/handshake.hpp"
#include "engine/nbd/protocol.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
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

/// Bytes of a request's header, and its fields. Precondition: `received` has that many.
std::size_t request_size_of(const session_terms& terms) noexcept;
request decode_request(std::span<const std::byte> received, const session_terms& terms) noexcept;

/// `shutting_down` refuses everything that can be refused.
ruling rule_on(const request& asked, const session_terms& terms, bool shutting_down) noexcept;

/// What BLOCK_STATUS asks for. The length is cut to what is looked at in one go; to answer less is legal.
struct status_query {
  std::uint64_t length = 0;
  meta_context_set contexts;
};
/// `payload`: what came with the request; empty without PAYLOAD_LEN. None if it makes no sense: an unknown or repeated
/// context, or a range past the end. Precondition: rule_on() let the request through.
std::optional<status_query> decode_status_query(const request& asked, std::span<const std::byte> payload,
                                                const session_terms& terms) noexcept;
/// Extents in one context of one answer.
inline constexpr std::size_t most_extents = 4096;

/// The error number a client sees for `code`. `fast_zero`: the request asked for fast zeroing only, the one
/// case in which "not supported" may be answered.
wire_error wire_error_of(error_code code, bool fast_zero) noexcept;

/// A few words for an error chunk.
std::string_view describe(wire_error error) noexcept;

}  // namespace weir::nbd
