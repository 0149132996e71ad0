#include "engine/nbd/handshake.hpp"

#include "engine/nbd/wire_reader.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace weir::nbd {
namespace {

std::span<const std::byte> bytes_of(std::string_view text) noexcept {
  return std::as_bytes(std::span(text));
}

template <std::unsigned_integral T>
void append(std::vector<std::byte>& to, T value) {
  std::array<std::byte, sizeof(T)> encoded;
  store_big(encoded.data(), value);
  to.insert(to.end(), encoded.begin(), encoded.end());
}

void append(std::vector<std::byte>& to, std::span<const std::byte> bytes) {
  to.insert(to.end(), bytes.begin(), bytes.end());
}

bool contains(std::span<const std::byte> wanted, info_item item) noexcept {
  for (wire_reader reader(wanted); !reader.at_end();) {
    if (reader.take<std::uint16_t>() == static_cast<std::uint16_t>(item)) return true;
  }
  return false;
}

}  // namespace

handshake::handshake(const export_catalog& catalog, handshake_policy policy)
    : catalog_(catalog), policy_(policy) {
  append(output_, greeting_magic);
  append(output_, option_magic);
  append(output_, static_cast<std::uint16_t>(handshake_fixed_newstyle | handshake_no_zeroes));
}

std::size_t handshake::feed(std::span<const std::byte> input) {
  const std::size_t offered = input.size();
  const unsigned before = option_count_;
  while (phase_ == phase::negotiating && !input.empty() && option_count_ == before) {
    const std::size_t taken = std::min<std::size_t>(missing_, input.size());
    if (part_ != part::skip) append(collected_, input.first(taken));
    input = input.subspan(taken);
    missing_ -= static_cast<std::uint32_t>(taken);
    // A part without bytes (an option without data) is complete as soon as it is expected.
    while (missing_ == 0 && phase_ == phase::negotiating) part_complete();
  }
  return offered - input.size();
}

void handshake::expect(part next, std::uint32_t length) {
  part_ = next;
  missing_ = length;
  collected_.clear();
}

void handshake::part_complete() {
  switch (part_) {
    case part::client_flags:
      return client_flags_complete();
    case part::header:
      return header_complete();
    case part::data:
      handle_option();
      break;
    case part::skip:
      refuse(option_reply::too_big, "the option is too long");
      break;
  }
  ++option_count_;
  if (option_count_ == most_options && phase_ == phase::negotiating) return close();
  expect(part::header, option_header_size);
}

void handshake::client_flags_complete() {
  const auto flags = load_big<std::uint32_t>(collected_.data());
  if ((flags & ~std::uint32_t{handshake_fixed_newstyle | handshake_no_zeroes}) != 0) return close();
  fixed_newstyle_ = (flags & handshake_fixed_newstyle) != 0;
  no_zeroes_ = (flags & handshake_no_zeroes) != 0;
  expect(part::header, option_header_size);
}

void handshake::header_complete() {
  const option_header header = decode_option_header(std::span(collected_).first<option_header_size>());
  if (header.magic != option_magic || header.length > longest_skip) return close();
  option_ = header.code;
  const bool answerable = fixed_newstyle_ && option_ != static_cast<std::uint32_t>(option::export_name);
  if (header.length <= largest_option) {
    expect(part::data, header.length);
  } else if (answerable) {
    expect(part::skip, header.length);
  } else {
    close();
  }
}

void handshake::handle_option() {
  const auto code = static_cast<option>(option_);
  if (code == option::export_name) return handle_export_name();
  // Without fixed newstyle a client understands no option replies.
  if (!fixed_newstyle_) return close();
  if (code == option::abort) {
    reply(option_reply::ack);
    return close();
  }
  if (shutting_down_) return refuse(option_reply::shutdown, "the server is shutting down");
  if (code == option::starttls) return handle_starttls();
  if (lacks_tls()) return refuse(option_reply::tls_required, "this server wants TLS first (STARTTLS)");
  switch (code) {
    case option::list:
      return handle_list();
    case option::info:
    case option::go:
      return handle_info();
    case option::structured_reply:
      return handle_structured_reply();
    case option::extended_headers:
      return handle_extended_headers();
    case option::list_meta_context:
    case option::set_meta_context:
      return handle_meta_context();
    default:
      return refuse(option_reply::unsupported, "unsupported option");
  }
}

// Illegal requests cannot be answered here: the reply has no room for an error.
void handshake::handle_export_name() {
  wire_reader reader(collected_);
  const std::string_view name = reader.take_text(collected_.size());
  // Extended headers make GO mandatory.
  if (shutting_down_ || lacks_tls() || extended_ || name.size() > longest_string) return close();
  std::optional<export_facts> found = find(name);
  if (!found) return close();
  append(output_, found->size);
  append(output_, transmission_flags(*found));
  if (!no_zeroes_) output_.resize(output_.size() + export_name_padding);
  begin_transmission(*std::move(found));
}

void handshake::handle_info() {
  wire_reader reader(collected_);
  const std::string_view name = reader.take_text(reader.take<std::uint32_t>());
  const auto item_count = reader.take<std::uint16_t>();
  const std::span<const std::byte> wanted = reader.take_bytes(std::size_t{item_count} * 2);
  if (!reader.at_end()) return refuse(option_reply::invalid, "the option's lengths do not add up");
  if (name.size() > longest_string) return refuse(option_reply::invalid, "the export name is too long");
  std::optional<export_facts> found = find(name);
  if (!found) return refuse_unknown();
  send_info(*found, wanted);
  reply(option_reply::ack);
  if (static_cast<option>(option_) == option::go) begin_transmission(*std::move(found));
}

void handshake::send_info(const export_facts& facts, std::span<const std::byte> wanted) {
  std::vector<std::byte> item;
  const auto begin = [&item](info_item kind) {
    item.clear();
    append(item, static_cast<std::uint16_t>(kind));
  };
  begin(info_item::export_facts);
  append(item, facts.size);
  append(item, transmission_flags(facts));
  reply(option_reply::info, item);
  if (contains(wanted, info_item::name)) {
    begin(info_item::name);
    append(item, bytes_of(facts.name));
    reply(option_reply::info, item);
  }
  if (contains(wanted, info_item::description) && !facts.description.empty()) {
    begin(info_item::description);
    append(item, bytes_of(facts.description));
    reply(option_reply::info, item);
  }
  // Unasked as well, as qemu-nbd does: clients that did not ask ignore it or do better with it.
  begin(info_item::block_size);
  append(item, std::uint32_t{1});
  append(item, facts.preferred_block);
  append(item, largest_payload);
  reply(option_reply::info, item);
}

void handshake::handle_list() {
  if (!require_no_data()) return;
  std::vector<std::byte> server;
  for (const export_facts& facts : catalog_.list()) {
    if (!may_open(facts.name)) continue;
    server.clear();
    append(server, static_cast<std::uint32_t>(facts.name.size()));
    append(server, bytes_of(facts.name));
    append(server, bytes_of(facts.description));
    reply(option_reply::server, server);
  }
  reply(option_reply::ack);
}

void handshake::handle_structured_reply() {
  if (!require_no_data()) return;
  if (extended_) return refuse(option_reply::extended_required, "extended headers were negotiated already");
  structured_ = true;
  reply(option_reply::ack);
}

void handshake::handle_extended_headers() {
  if (!require_no_data()) return;
  structured_ = extended_ = true;
  reply(option_reply::ack);
}

void handshake::handle_meta_context() {
  const bool set = static_cast<option>(option_) == option::set_meta_context;
  // A new SET replaces the earlier one even where it fails.
  if (set) contexts_.clear();
  if (set && !structured_) return refuse(option_reply::invalid, "structured replies come first");
  wire_reader reader(collected_);
  const std::string_view name = reader.take_text(reader.take<std::uint32_t>());
  const std::optional<export_facts> found = find(name);
  const std::span<const std::string> bitmaps = found ? found->bitmaps : std::span<const std::string>{};
  const auto query_count = reader.take<std::uint32_t>();
  meta_context_set selected;
  for (std::uint32_t index = 0; index < query_count && reader.ok(); ++index) {
    const std::string_view query = reader.take_text(reader.take<std::uint32_t>());
    select_meta_contexts(query, !set, bitmaps, selected);
  }
  if (!reader.at_end()) return refuse(option_reply::invalid, "the option's lengths do not add up");
  if (name.size() > longest_string) return refuse(option_reply::invalid, "the export name is too long");
  if (!found) return refuse_unknown();
  if (!set && query_count == 0) selected = every_meta_context(bitmaps.size());
  send_contexts(*found, selected);
  if (!set) return;
  contexts_ = selected;
  contexts_export_ = name;
  contexts_bitmaps_ = found->bitmaps;
}

void handshake::send_contexts(const export_facts& facts, meta_context_set contexts) {
  const bool set = static_cast<option>(option_) == option::set_meta_context;
  std::vector<std::byte> item;
  while (!contexts.empty()) {
    const meta_context context = contexts.take_first();
    item.clear();
    append(item, set ? id_of(context) : std::uint32_t{0});
    append(item, bytes_of(name_of(context, facts.bitmaps)));
    reply(option_reply::meta_context, item);
  }
  reply(option_reply::ack);
}

void handshake::handle_starttls() {
  if (!require_no_data()) return;
  if (!policy_.tls) return refuse(option_reply::policy, "this server has no TLS credentials");
  if (secure_) return refuse(option_reply::invalid, "TLS is up already");
  reply(option_reply::ack);
  phase_ = phase::securing;
}

void handshake::secured(std::string client) {
  client_ = std::move(client);
  secure_ = true;
  structured_ = extended_ = false;
  contexts_.clear();
  contexts_export_.clear();
  contexts_bitmaps_.clear();
  phase_ = phase::negotiating;
}

bool handshake::may_open(std::string_view name) const {
  return policy_.access == nullptr || policy_.access->permits(client_, name);
}

std::optional<export_facts> handshake::find(std::string_view name) const {
  if (!may_open(name)) return std::nullopt;
  return catalog_.find(name);
}

bool handshake::require_no_data() {
  if (collected_.empty()) return true;
  refuse(option_reply::invalid, "this option takes no data");
  return false;
}

void handshake::begin_transmission(export_facts facts) {
  terms_.flags = transmission_flags(facts);
  terms_.structured = structured_;
  terms_.extended = extended_;
  if (contexts_export_ == facts.name && contexts_bitmaps_ == facts.bitmaps) terms_.contexts = contexts_;
  terms_.facts = std::move(facts);
  phase_ = phase::transmitting;
}

std::uint16_t handshake::transmission_flags(const export_facts& facts) const noexcept {
  namespace flag = transmission;
  unsigned flags = flag::has_flags | flag::flush | flag::fua | flag::multi_conn | flag::cache;
  if (structured_) flags |= flag::df;
  if (extended_) flags |= flag::block_status_payload;
  if (facts.read_only) {
    flags |= flag::read_only;
  } else {
    flags |= flag::trim | flag::write_zeroes;
    if (facts.fast_zero) flags |= flag::fast_zero;
  }
  return static_cast<std::uint16_t>(flags);
}

void handshake::reply(option_reply type, std::span<const std::byte> data) {
  append(output_, option_reply_magic);
  append(output_, option_);
  append(output_, static_cast<std::uint32_t>(type));
  append(output_, static_cast<std::uint32_t>(data.size()));
  append(output_, data);
}

// One answer for both, so that it does not tell which names there are.
void handshake::refuse_unknown() {
  refuse(option_reply::unknown,
         policy_.access == nullptr ? "no export of this name" : "no export of this name for this client");
}

void handshake::refuse(option_reply type, std::string_view why) {
  reply(type, bytes_of(why));
}

}  // namespace weir::nbd
