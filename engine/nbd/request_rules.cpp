#include "engine/nbd/request_rules.hpp"

#include "engine/base/range.hpp"
#include "engine/nbd/wire_reader.hpp"

#include <algorithm>
#include <cerrno>
#include <optional>

namespace weir::nbd {
namespace {

/// Bounds the walk over metadata that one BLOCK_STATUS costs.
constexpr std::uint64_t longest_status = 64 * GiB;
/// A BLOCK_STATUS payload: the effect length, then context ids.
constexpr std::uint64_t status_payload_head = 8;
constexpr std::uint64_t context_id_bytes = 4;

/// What the longest answer to BLOCK_STATUS occupies.
std::uint32_t status_reply_bytes(const session_terms& terms) noexcept {
  const std::size_t extent_bytes = terms.extended ? 16 : 8;
  return static_cast<std::uint32_t>(most_extents * extent_bytes) * terms.contexts.count();
}

bool announces_payload(const request& asked, const session_terms& terms) noexcept {
  return terms.extended && (asked.flags & command_flag::payload_length) != 0;
}

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
      flags |= command_flag::request_one;
      if ((terms.flags & transmission::block_status_payload) != 0) flags |= command_flag::payload_length;
      return flags;
    case command::write:
      if (terms.extended) flags |= command_flag::payload_length;
      return flags;
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

ruling rule_on_status(const request& asked, const session_terms& terms) noexcept {
  if (!terms.structured || terms.contexts.empty()) {
    return refusal(wire_error::invalid, "no metadata context was negotiated");
  }
  if (announces_payload(asked, terms)) {
    const std::uint64_t ids = asked.length - std::min(asked.length, status_payload_head);
    if (ids == 0 || ids % context_id_bytes != 0 || ids / context_id_bytes > terms.contexts.count()) {
      return refusal(wire_error::invalid, "the list of contexts makes no sense");
    }
  } else if (asked.length == 0) {
    return refusal(wire_error::invalid, "block status of an empty range");
  }
  const bool one = (asked.flags & command_flag::request_one) != 0;
  return {.reply_bytes = one ? 0 : status_reply_bytes(terms)};
}

ruling rule_on_range(const request& asked, const session_terms& terms) noexcept {
  const auto code = static_cast<command>(asked.code);
  const bool length_is_payload = code == command::block_status && announces_payload(asked, terms);
  if (!fits(asked.offset, length_is_payload ? 0 : asked.length, terms.facts.size)) {
    const bool fills = code == command::write || code == command::write_zeroes;
    return refusal(fills ? wire_error::no_space : wire_error::invalid, "past the end of the export");
  }
  if (code == command::read) {
    if (asked.length > largest_payload)
      return refusal(wire_error::invalid, "longer than the largest payload");
    return {.reply_bytes = static_cast<std::uint32_t>(asked.length)};
  }
  if (code == command::block_status) return rule_on_status(asked, terms);
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

std::size_t request_size_of(const session_terms& terms) noexcept {
  return terms.extended ? extended_request_size : request_size;
}

request decode_request(std::span<const std::byte> received, const session_terms& terms) noexcept {
  return terms.extended ? decode_extended_request(received.first<extended_request_size>())
                        : decode_request(received.first<request_size>());
}

ruling rule_on(const request& asked, const session_terms& terms, bool shutting_down) noexcept {
  if (asked.magic != (terms.extended ? extended_request_magic : request_magic)) {
    return {.what = ruling::action::close};
  }
  const auto code = static_cast<command>(asked.code);
  if (code == command::disconnect) return {.what = ruling::action::disconnect};
  // QEMU 10 writes with extended headers and without PAYLOAD_LEN; data follows nevertheless.
  const bool has_payload = code == command::write || announces_payload(asked, terms);
  if (has_payload && asked.length > largest_payload) return {.what = ruling::action::close};
  ruling rule = rule_on_known(asked, terms, shutting_down);
  rule.payload = has_payload ? static_cast<std::uint32_t>(asked.length) : 0;
  return rule;
}

std::optional<status_query> decode_status_query(const request& asked, std::span<const std::byte> payload,
                                                const session_terms& terms) noexcept {
  if (payload.empty()) return status_query{std::min(asked.length, longest_status), terms.contexts};
  wire_reader reader(payload);
  const auto length = reader.take<std::uint64_t>();
  meta_context_set contexts;
  while (!reader.at_end()) {
    const auto id = reader.take<std::uint32_t>();
    std::optional<meta_context> named;
    for (meta_context_set left = terms.contexts; !left.empty();) {
      const meta_context each = left.take_first();
      if (id_of(each) == id) named = each;
    }
    if (!reader.ok() || !named || contexts.contains(*named)) return std::nullopt;
    contexts.insert(*named);
  }
  if (length == 0 || contexts.empty() || !fits(asked.offset, length, terms.facts.size)) return std::nullopt;
  return status_query{std::min(length, longest_status), contexts};
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
