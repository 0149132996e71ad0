// The URI and colon forms of a backing name. Part of backing_name.cpp's parser.
#pragma once

#include "engine/block/backing_name.hpp"

#include <string>
#include <string_view>

namespace weir::backing {

/// A malformed name: "TEXT: WHY".
failure malformed(std::string_view text, std::string_view why);
/// Decimal 1…65535 without sign or leading blanks.
bool is_port(std::string_view text) noexcept;

/// `proto[+transport]://[user[:password]@]host[:port][/name][?query]`.
outcome<parsed_backing> parse_uri(std::string_view text);
/// `nbd:host:port[:exportname=X]`, `nbd:unix:/p[:exportname=X]`.
outcome<parsed_backing> parse_nbd_colon(std::string_view text);
/// `rbd:pool/image[@snapshot][:key=value…]`.
outcome<parsed_backing> parse_rbd_colon(std::string_view text);
/// What follows `json:`.
outcome<parsed_backing> parse_json(std::string_view text);

}  // namespace weir::backing
