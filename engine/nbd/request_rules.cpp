#include "engine/nbd/request_rules.hpp"

#include "engine/base/range.hpp"

#include <algorithm>
#include <cerrno>
#include <optional>

namespace weir::nbd {
namespace {

/// Longest answer to BLOCK_STATUS that is charged for; see most_extents in request_runner.cpp.
constexpr std::uint32_t status_reply_bytes = 64U << 10;

ruling refusal(wire_error error, std::string_view why) noexcept {
  return {ruling::action::refuse, error, why, 0, 0};
}

/// Flags that `code` may carry under `terms`; none if the command is unknown.
std::optional<unsigned> valid_flags(command code, const session_terms& terms) noexcept {
  // FUA is advertised and therefore accepted everywhere.
  unsigned flags = command_flag::fua;
  switch (code) {
    case command::read:
      if (terms.structured) flags |= command_flag::df;
      return flags;
    case command::write_zeroes:
      flags |= command_flag::no_hole;
      if ((terms.flags & transmission::fast_zero) != 0) flags |= command_flag::fast_zero;
      return flags;
    case command::block_status:
      return flags | command_flag::request_one;
    case command::write:
    case command::flush:
    case command::trim:
    case command::cache:
    case command::disconnect:
      return flags;
  }
  return std::nullopt;
}

bool changes_content(command code) noexcept {
  return code == command::write || code == command::trim || code == command::write_zeroes;
}

ruling rule_on_range(const request& asked, const session_terms& terms) noexcept {
  const auto code = static_cast<command>(asked.code);
  if (!fits(asked.offset, asked.length, terms.facts.size)) {
    const bool fills = code == command::write || code == command::write_zeroes;
    return refusal(fills ? wire_error::no_space : wire_error::invalid, "past the end of the export");
  }
  if (code == command::read) {
    if (asked.length > largest_payload)
      return refusal(wire_error::invalid, "longer than the largest payload");
    return {.reply_bytes = asked.length};
  }
  if (code == command::block_status) {
    if (!terms.structured || terms.contexts.empty()) {
      return refusal(wire_error::invalid, "no metadata context was negotiated");
    }
    if (asked.length == 0) return refusal(wire_error::invalid, "block status of an empty range");
    const bool one = (asked.flags & command_flag::request_one) != 0;
    return {.reply_bytes = one ? 0 : status_reply_bytes};
  }
  return {};
}

ruling rule_on_known(const request& asked, const session_terms& terms, bool shutting_down) noexcept {
  const auto code = static_cast<command>(asked.code);
  if (shutting_down) return refusal(wire_error::shutdown, describe(wire_error::shutdown));
  const std::optional<unsigned> flags = valid_flags(code, terms);
  if (!flags) return refusal(wire_error::invalid, "unknown command");
  if ((asked.flags & ~*flags) != 0)
    return refusal(wire_error::invalid, "this command does not take these flags");
  if (terms.facts.read_only && changes_content(code)) {
    return refusal(wire_error::not_permitted, "the export is read-only");
  }
  // Offset and length mean nothing to FLUSH; as qemu-nbd, be lenient.
  return code == command::flush ? ruling{} : rule_on_range(asked, terms);
}

}  // namespace

ruling rule_on(const request& asked, const session_terms& terms, bool shutting_down) noexcept {
  if (asked.magic != request_magic) return {.what = ruling::action::close};
  const auto code = static_cast<command>(asked.code);
  if (code == command::disconnect) return {.what = ruling::action::disconnect};
  const std::uint32_t payload = code == command::write ? asked.length : 0;
  if (payload > largest_payload) return {.what = ruling::action::close};
  ruling rule = rule_on_known(asked, terms, shutting_down);
  rule.payload = payload;
  return rule;
}

wire_error wire_error_of(error_code code, bool fast_zero) noexcept {
  if (!code) return wire_error::none;
  if (code.category() == weir_category()) {
    switch (static_cast<errc>(code.value())) {
      case errc::read_only:
        return wire_error::not_permitted;
      case errc::out_of_range:
        return wire_error::invalid;
      case errc::closed:
        return wire_error::shutdown;
      case errc::not_supported:
        return fast_zero ? wire_error::not_supported : wire_error::io;
      default:
        return wire_error::io;
    }
  }
  if (code.category() != boost::system::system_category()) return wire_error::io;
  switch (code.value()) {
    case EPERM:
    case EACCES:
    case EROFS:
      return wire_error::not_permitted;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
      return wire_error::no_space;
    case EINVAL:
      return wire_error::invalid;
    case ESHUTDOWN:
      return wire_error::shutdown;
    case EOPNOTSUPP:
      return fast_zero ? wire_error::not_supported : wire_error::io;
    default:
      return wire_error::io;
  }
}

std::string_view describe(wire_error error) noexcept {
  switch (error) {
    case wire_error::none:
      return {};
    case wire_error::not_permitted:
      return "not permitted";
    case wire_error::io:
      return "input/output error";
    case wire_error::no_memory:
      return "out of memory";
    case wire_error::invalid:
      return "invalid request";
    case wire_error::no_space:
      return "no space left";
    case wire_error::overflow:
      return "too large to answer in one piece";
    case wire_error::not_supported:
      return "zeroing would not be faster than writing";
    case wire_error::shutdown:
      return "the server is shutting down";
  }
  return {};
}

}  // namespace weir::nbd
