// What the NBD server decides without I/O: rulings on requests, error numbers, block status, holes in reads,
// replies on the wire, addresses.
#include "engine/nbd/listener.hpp"
#include "engine/nbd/read_plan.hpp"
#include "engine/nbd/reply_part.hpp"
#include "engine/nbd/request_rules.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cerrno>
#include <string>
#include <utility>
#include <vector>

namespace weir::nbd {
namespace {

using action = ruling::action;

constexpr std::uint64_t export_size = 1 << 20;

session_terms terms(bool structured = true, bool read_only = false) {
  session_terms made;
  made.facts = {.name = "x", .description = {}, .size = export_size, .read_only = read_only};
  made.structured = structured;
  if (structured) made.contexts.insert(meta_context::base_allocation);
  return made;
}

session_terms extended_terms() {
  session_terms made = terms();
  made.extended = true;
  made.flags = transmission::block_status_payload;
  made.contexts.insert(context_of_bitmap(0));
  return made;
}

request ask(command code, std::uint64_t offset, std::uint64_t length, std::uint16_t flags = 0) {
  return {request_magic, flags, static_cast<std::uint16_t>(code), 7, offset, length};
}

request ask_extended(command code, std::uint64_t offset, std::uint64_t length, std::uint16_t flags = 0) {
  request asked = ask(code, offset, length, flags);
  asked.magic = extended_request_magic;
  return asked;
}

wire_error error_of(const request& asked, const session_terms& under = terms()) {
  const ruling rule = rule_on(asked, under, false);
  EXPECT_EQ(rule.what == action::refuse, rule.error != wire_error::none);
  EXPECT_EQ(rule.why.empty(), rule.error == wire_error::none);
  return rule.error;
}

constexpr std::array content_changes{command::write, command::trim, command::write_zeroes};

TEST(nbd_rules, bad_magic_and_oversized_payloads_close) {
  request bad = ask(command::read, 0, 1);
  bad.magic ^= 1;
  EXPECT_EQ(rule_on(bad, terms(), false).what, action::close);
  EXPECT_EQ(rule_on(ask(command::write, 0, largest_payload + 1), terms(), false).what, action::close);
  EXPECT_EQ(rule_on(ask(command::write, 0, 0xffffffff), terms(), true).what, action::close);
}

TEST(nbd_rules, disconnect_is_obeyed_whatever_it_carries) {
  EXPECT_EQ(rule_on(ask(command::disconnect, 99, 99, 0xffff), terms(), false).what, action::disconnect);
}

TEST(nbd_rules, a_refused_write_names_its_payload_to_be_dropped) {
  const ruling rule = rule_on(ask(command::write, export_size, 5000), terms(), false);
  EXPECT_EQ(rule.what, action::refuse);
  EXPECT_EQ(rule.payload, 5000U);
  EXPECT_EQ(rule_on(ask(command::write_zeroes, export_size, 5000), terms(), false).payload, 0U);
}

TEST(nbd_rules, bounds_are_checked_without_overflow) {
  for (const command code : {command::read, command::trim, command::cache, command::block_status}) {
    EXPECT_EQ(error_of(ask(code, export_size - 1, 1)), wire_error::none);
    EXPECT_EQ(error_of(ask(code, export_size - 1, 2)), wire_error::invalid);
    EXPECT_EQ(error_of(ask(code, 0xffffffffffffffff, 2)), wire_error::invalid);
  }
  for (const command code : {command::write, command::write_zeroes}) {
    EXPECT_EQ(error_of(ask(code, export_size - 1, 1)), wire_error::none);
    EXPECT_EQ(error_of(ask(code, export_size, 1)), wire_error::no_space);
    EXPECT_EQ(error_of(ask(code, 0xffffffffffffffff, 2)), wire_error::no_space);
  }
}

TEST(nbd_rules, empty_ranges_are_fine_but_for_block_status) {
  for (const command code :
       {command::read, command::write, command::trim, command::cache, command::write_zeroes}) {
    EXPECT_EQ(error_of(ask(code, export_size, 0)), wire_error::none);
  }
  EXPECT_EQ(error_of(ask(command::block_status, 0, 0)), wire_error::invalid);
}

TEST(nbd_rules, long_reads_are_refused_and_long_zeroes_are_not) {
  session_terms large = terms();
  large.facts.size = std::uint64_t{1} << 40;
  EXPECT_EQ(error_of(ask(command::read, 0, largest_payload), large), wire_error::none);
  EXPECT_EQ(error_of(ask(command::read, 0, largest_payload + 1), large), wire_error::invalid);
  EXPECT_EQ(error_of(ask(command::write_zeroes, 0, 0xffffffff), large), wire_error::none);
  EXPECT_EQ(error_of(ask(command::trim, 0, 0xffffffff), large), wire_error::none);
}

TEST(nbd_rules, read_only_exports_refuse_every_change) {
  for (const command code : content_changes) {
    EXPECT_EQ(error_of(ask(code, 0, 512), terms(true, true)), wire_error::not_permitted);
  }
  EXPECT_EQ(error_of(ask(command::flush, 0, 0), terms(true, true)), wire_error::none);
}

TEST(nbd_rules, every_flag_is_refused_where_it_does_not_belong) {
  session_terms fast = terms();
  fast.flags = transmission::fast_zero;
  const std::uint16_t fua = command_flag::fua;
  const std::vector<std::pair<command, unsigned>> valid{
      {command::read, fua | command_flag::df},
      {command::write, fua},
      {command::flush, fua},
      {command::trim, fua},
      {command::cache, fua},
      {command::write_zeroes, fua | command_flag::no_hole | command_flag::fast_zero},
      {command::block_status, fua | command_flag::request_one}};
  for (const auto& [code, flags] : valid) {
    for (unsigned bit = 0; bit < 16; ++bit) {
      const auto flag = static_cast<std::uint16_t>(1U << bit);
      const wire_error expected = (flags & flag) != 0 ? wire_error::none : wire_error::invalid;
      EXPECT_EQ(error_of(ask(code, 0, 512, flag), fast), expected)
          << static_cast<int>(code) << " bit " << bit;
    }
  }
}

TEST(nbd_rules, flags_that_were_not_offered_are_refused) {
  EXPECT_EQ(error_of(ask(command::read, 0, 1, command_flag::df), terms(false)), wire_error::invalid);
  EXPECT_EQ(error_of(ask(command::write_zeroes, 0, 1, command_flag::fast_zero)), wire_error::invalid);
}

TEST(nbd_rules, unknown_commands_are_refused) {
  for (const unsigned code : {8U, 9U, 100U, 0xffffU}) {
    request asked = ask(command::read, 0, 1 << 30);
    asked.code = static_cast<std::uint16_t>(code);
    EXPECT_EQ(error_of(asked), wire_error::invalid);
    EXPECT_EQ(rule_on(asked, terms(), false).payload, 0U);
  }
}

TEST(nbd_rules, block_status_needs_a_context) {
  session_terms none = terms();
  none.contexts.clear();
  EXPECT_EQ(error_of(ask(command::block_status, 0, 512), none), wire_error::invalid);
  EXPECT_EQ(error_of(ask(command::block_status, 0, 512), terms(false)), wire_error::invalid);
}

TEST(nbd_rules, shutting_down_refuses_and_still_takes_payloads) {
  const ruling rule = rule_on(ask(command::write, 0, 512), terms(), true);
  EXPECT_EQ(rule.error, wire_error::shutdown);
  EXPECT_EQ(rule.payload, 512U);
}

// Extended headers.

TEST(nbd_rules, each_form_of_header_belongs_to_its_terms) {
  EXPECT_EQ(rule_on(ask_extended(command::read, 0, 1), terms(), false).what, action::close);
  EXPECT_EQ(rule_on(ask(command::read, 0, 1), extended_terms(), false).what, action::close);
  EXPECT_EQ(request_size_of(terms()), 28U);
  EXPECT_EQ(request_size_of(extended_terms()), 32U);
}

TEST(nbd_rules, extended_writes_carry_data_whatever_their_flag_says) {
  for (const unsigned flag : {0U, unsigned{command_flag::payload_length}}) {
    const request asked = ask_extended(command::write, 0, 512, static_cast<std::uint16_t>(flag));
    const ruling rule = rule_on(asked, extended_terms(), false);
    EXPECT_EQ(rule.what, action::execute);
    EXPECT_EQ(rule.payload, 512U);
  }
  const auto too_long = ask_extended(command::write, 0, (std::uint64_t{1} << 32) + 1);
  EXPECT_EQ(rule_on(too_long, extended_terms(), false).what, action::close);
}

TEST(nbd_rules, a_payload_where_none_belongs_is_dropped_and_refused) {
  for (const command code : {command::read, command::trim, command::write_zeroes, command::cache,
                             command::flush, static_cast<command>(77)}) {
    const request asked = ask_extended(code, 0, 512, command_flag::payload_length);
    const ruling rule = rule_on(asked, extended_terms(), false);
    EXPECT_EQ(rule.error, wire_error::invalid);
    EXPECT_EQ(rule.payload, 512U);
  }
  const auto long_one = ask_extended(command::trim, 0, largest_payload + 1, command_flag::payload_length);
  EXPECT_EQ(rule_on(long_one, extended_terms(), false).what, action::close);
}

TEST(nbd_rules, extended_lengths_need_no_payload) {
  session_terms large = extended_terms();
  large.facts.size = 8 * TiB;
  for (const command code : {command::trim, command::write_zeroes, command::cache, command::block_status}) {
    const ruling rule = rule_on(ask_extended(code, 1 * TiB, 7 * TiB), large, false);
    EXPECT_EQ(rule.what, action::execute);
    EXPECT_EQ(rule.payload, 0U);
  }
  EXPECT_EQ(error_of(ask_extended(command::trim, 1, 0xffffffffffffffff), large), wire_error::invalid);
  EXPECT_EQ(error_of(ask_extended(command::read, 0, 4 * GiB), large), wire_error::invalid);
}

/// A BLOCK_STATUS payload.
std::vector<std::byte> status_payload(std::uint64_t length, const std::vector<std::uint32_t>& ids) {
  std::vector<std::byte> made(8 + 4 * ids.size());
  store_big(made.data(), length);
  for (std::size_t at = 0; at < ids.size(); ++at) store_big(made.data() + 8 + 4 * at, ids[at]);
  return made;
}

TEST(nbd_rules, a_status_payload_selects_contexts) {
  const session_terms under = extended_terms();
  const std::uint32_t base = id_of(meta_context::base_allocation);
  const std::uint32_t bitmap = id_of(context_of_bitmap(0));
  const auto decoded = [&](std::uint64_t length, const std::vector<std::uint32_t>& ids) {
    const auto payload = status_payload(length, ids);
    const request asked =
        ask_extended(command::block_status, 512, payload.size(), command_flag::payload_length);
    EXPECT_EQ(rule_on(asked, under, false).what, action::execute);
    return decode_status_query(asked, payload, under);
  };
  const auto one = decoded(export_size - 512, {bitmap});
  ASSERT_TRUE(one.has_value());
  EXPECT_EQ(one->length, export_size - 512);
  EXPECT_EQ(one->contexts.count(), 1U);
  EXPECT_TRUE(one->contexts.contains(context_of_bitmap(0)));
  EXPECT_EQ(decoded(1, {bitmap, base})->contexts, under.contexts);
  EXPECT_FALSE(decoded(1, {bitmap, bitmap}).has_value()) << "twice";
  EXPECT_FALSE(decoded(1, {id_of(meta_context::allocation_depth)}).has_value()) << "not negotiated";
  EXPECT_FALSE(decoded(1, {0}).has_value());
  EXPECT_FALSE(decoded(export_size, {base}).has_value()) << "past the end";
  EXPECT_FALSE(decoded(0, {base}).has_value());
  EXPECT_FALSE(decoded(0xffffffffffffffff, {base}).has_value());
}

TEST(nbd_rules, a_status_payload_of_an_odd_size_is_refused) {
  for (const std::uint64_t length : {0U, 4U, 8U, 11U, 13U, 20U, 1000U}) {
    const request asked = ask_extended(command::block_status, 0, length, command_flag::payload_length);
    EXPECT_EQ(error_of(asked, extended_terms()), wire_error::invalid) << length;
    EXPECT_EQ(rule_on(asked, extended_terms(), false).payload, length);
  }
  const request asked = ask(command::block_status, 0, 12, command_flag::payload_length);
  EXPECT_EQ(error_of(asked), wire_error::invalid) << "not in compact headers";
}

TEST(nbd_rules, errors_map_to_the_numbers_nbd_knows) {
  const auto mapped = [](error_code code) { return wire_error_of(code, false); };
  EXPECT_EQ(mapped({}), wire_error::none);
  EXPECT_EQ(mapped(errc::read_only), wire_error::not_permitted);
  EXPECT_EQ(mapped(errc::corrupt_image), wire_error::io);
  EXPECT_EQ(mapped(errc::closed), wire_error::shutdown);
  EXPECT_EQ(mapped(errno_code(ENOSPC)), wire_error::no_space);
  EXPECT_EQ(mapped(errno_code(EDQUOT)), wire_error::no_space);
  EXPECT_EQ(mapped(errno_code(EFBIG)), wire_error::no_space);
  EXPECT_EQ(mapped(errno_code(EROFS)), wire_error::not_permitted);
  EXPECT_EQ(mapped(errno_code(ENOMEM)), wire_error::io);
  EXPECT_EQ(mapped(errno_code(ENOENT)), wire_error::io);
  EXPECT_EQ(mapped(errc::not_supported), wire_error::io);
  EXPECT_EQ(wire_error_of(errc::not_supported, true), wire_error::not_supported);
}

// Block status.

TEST(nbd_status, allocation_merges_across_depths_and_depth_across_zeros) {
  const std::vector<status_run> runs{{100, 1, false}, {50, 2, false}, {25, 2, true}, {25, 0, true}};
  using extents = std::vector<status_extent>;
  EXPECT_EQ(extents_of(meta_context::base_allocation, runs, 10), (extents{{150, 0}, {50, 3}}));
  EXPECT_EQ(extents_of(meta_context::allocation_depth, runs, 10), (extents{{100, 1}, {75, 2}, {25, 0}}));
  EXPECT_EQ(extents_of(meta_context::base_allocation, runs, 1), (extents{{150, 0}}));
}

TEST(nbd_status, bitmaps_tile_the_range_in_granules) {
  dirty_bitmap bitmap(10 * 65536 - 100, 65536);
  bitmap.set({65536, 2 * 65536});
  bitmap.set({9 * 65536, 1});
  using extents = std::vector<status_extent>;
  EXPECT_EQ(extents_of(bitmap, {0, bitmap.size()}, 10),
            (extents{{65536, 0}, {2 * 65536, 1}, {6 * 65536, 0}, {65436, 1}}));
  EXPECT_EQ(extents_of(bitmap, {70'000, 512}, 10), (extents{{512, 1}}));
  EXPECT_EQ(extents_of(bitmap, {70'000, 3 * 65536}, 10), (extents{{126'608, 1}, {70'000, 0}}));
  EXPECT_EQ(extents_of(bitmap, {0, bitmap.size()}, 1), (extents{{65536, 0}}));
  EXPECT_EQ(extents_of(dirty_bitmap(1000, 512), {0, 1000}, 10), (extents{{1000, 0}}));
}

// Holes in reads.

TEST(nbd_read_plan, tiles_the_request) {
  using pieces = std::vector<read_piece>;
  const byte_range asked{1000, 100'000};
  EXPECT_EQ(plan_read(asked, {}), (pieces{{asked, false}}));
  const std::vector<status_run> runs{
      {10'000, 1, false}, {5000, 1, true}, {5000, 0, true}, {4095, 2, false}, {4095, 0, true}};
  EXPECT_EQ(plan_read(asked, runs),
            (pieces{{{1000, 10'000}, false}, {{11'000, 10'000}, true}, {{21'000, 80'000}, false}}));
  const std::vector<status_run> zero{{200'000, 0, true}};
  EXPECT_EQ(plan_read(asked, zero), (pieces{{asked, true}}));
}

TEST(nbd_read_plan, a_search_that_finds_nothing_is_repeated_ever_more_rarely) {
  hole_search search;
  unsigned asked = 0;
  for (int read = 0; read < 10'000; ++read) {
    if (!search.is_due()) continue;
    ++asked;
    search.found_nothing();
  }
  EXPECT_LT(asked, 60U);
  EXPECT_GT(asked, 30U);
  search.found();
  EXPECT_TRUE(search.is_due());
}

// Replies.

std::string hex(std::span<const std::byte> from) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string text;
  for (const std::byte each : from) {
    text += digits[std::to_integer<unsigned>(each) >> 4];
    text += digits[std::to_integer<unsigned>(each) & 15];
  }
  return text;
}

std::string wire(const reply_part& part) {
  return hex(part.head()) + "|" + hex(part.body);
}

TEST(nbd_replies, are_laid_out_as_specified) {
  const std::uint64_t cookie = 0x1122334455667788;
  const std::array data{std::byte{0xaa}, std::byte{0xbb}};
  const std::array<status_extent, 2> extents{{{0x1000, 0}, {0x2000, 3}}};
  EXPECT_EQ(wire(simple_reply(cookie, wire_error::io)), "67446698000000051122334455667788|");
  const reply_frame frame{cookie, 0x10, false};
  EXPECT_EQ(wire(empty_chunk(frame)), "668e33ef00010000112233445566778800000000|");
  EXPECT_EQ(wire(error_chunk(frame, wire_error::invalid, "no")),
            "668e33ef000180011122334455667788000000080000001600"
            "02|6e6f");
  EXPECT_EQ(wire(data_chunk(frame, 0x10, data, false)),
            "668e33ef000000011122334455667788"
            "0000000a0000000000000010|aabb");
  EXPECT_EQ(wire(hole_chunk(frame, {0x20, 0x30}, true)),
            "668e33ef000100021122334455667788"
            "0000000c000000000000002000000030|");
  EXPECT_EQ(wire(status_chunk(frame, meta_context::base_allocation, extents, true)),
            "668e33ef000100051122334455667788"
            "0000001400000001|00001000000000000000200000000003");
  EXPECT_FALSE(data_chunk(frame, 0, data, false).ends_reply);
  EXPECT_TRUE(simple_reply(cookie, wire_error::none).ends_reply);
}

TEST(nbd_replies, extended_ones_are_laid_out_as_specified) {
  const reply_frame frame{0x1122334455667788, 0x99, true};
  const std::array data{std::byte{0xaa}};
  const std::array<status_extent, 1> extents{{{0x100000000, 3}}};
  const std::string behind_type = "11223344556677880000000000000099";
  EXPECT_EQ(wire(empty_chunk(frame)), "6e8a278c00010000" + behind_type + "0000000000000000|");
  EXPECT_EQ(wire(data_chunk(frame, 0xa0, data, true)),
            "6e8a278c00010001" + behind_type + "000000000000000900000000000000a0|aa");
  EXPECT_EQ(wire(hole_chunk(frame, {0xa0, 0x30}, false)),
            "6e8a278c00000002" + behind_type + "000000000000000c00000000000000a000000030|");
  EXPECT_EQ(
      wire(status_chunk(frame, context_of_bitmap(0), extents, true)),
      "6e8a278c00010006" + behind_type + "00000000000000180000000300000001|00000001000000000000000000000003");
}

TEST(nbd_replies, requests_are_decoded_as_specified) {
  std::array<std::byte, request_size> raw{};
  store_big(raw.data(), request_magic);
  store_big(raw.data() + 4, std::uint16_t{1});
  store_big(raw.data() + 6, std::uint16_t{6});
  store_big(raw.data() + 8, std::uint64_t{0xffffffffffffffff});
  store_big(raw.data() + 16, std::uint64_t{0x123456789});
  store_big(raw.data() + 24, std::uint32_t{0x1000});
  const request read = decode_request(raw);
  EXPECT_EQ(read.magic, request_magic);
  EXPECT_EQ(read.flags, 1U);
  EXPECT_EQ(read.code, 6U);
  EXPECT_EQ(read.cookie, 0xffffffffffffffff);
  EXPECT_EQ(read.offset, 0x123456789U);
  EXPECT_EQ(read.length, 0x1000U);
}

// Addresses.

TEST(nbd_addresses, are_read_as_written) {
  const auto read = [](std::string_view text) { return parse_listen_address(text).value(); };
  EXPECT_EQ(read("unix:/run/a:b.sock"), listen_address(unix_address{"/run/a:b.sock"}));
  EXPECT_EQ(read("tcp:localhost:10809"), listen_address(tcp_address{"localhost", "10809"}));
  EXPECT_EQ(read("tcp:[::1]:0"), listen_address(tcp_address{"::1", "0"}));
  EXPECT_EQ(read("tcp::10809"), listen_address(tcp_address{"", "10809"}));
  EXPECT_EQ(read("fd:3"), listen_address(descriptor_address{3}));
}

TEST(nbd_addresses, that_make_no_sense_are_refused_by_name) {
  for (const std::string text :
       {"", "unix", "unix:", "tcp", "tcp:", "tcp:host", "tcp:host:", "tcp:host:99999", "tcp:h:1x",
        "tcp:::1:10809", "tcp:h:-1", "fd:", "fd:x", "fd:-1", "vsock:1:2"}) {
    const auto parsed = parse_listen_address(text);
    ASSERT_TRUE(parsed.has_error()) << text;
    EXPECT_NE(parsed.error().what.find("'" + text + "'"), std::string::npos);
  }
}

}  // namespace
}  // namespace weir::nbd
