#include "engine/nbd/request_runner.hpp"

#include "engine/base/zero_scan.hpp"
#include "engine/block/bitmap_store.hpp"
#include "engine/storage/positional_io.hpp"

#include <fcntl.h>

#include <array>
#include <cassert>
#include <utility>

namespace weir::nbd {
namespace {

constexpr std::uint32_t shortest_hole_search = 64 * KiB;
/// To hand pages over costs half of reading and sending them; shorter requests are not worth the calls around it.
constexpr std::uint32_t shortest_file_send = 64 * KiB;
/// Bounds the work and the reply of one READ with holes.
constexpr std::size_t most_read_runs = 64;
/// For REQ_ONE: runs that differ in depth only are merged into the one extent.
constexpr std::size_t runs_for_one_extent = 16;

byte_range range_of(const request& asked) noexcept {
  return {asked.offset, asked.length};
}

bool has_flag(const request& asked, std::uint16_t flag) noexcept {
  return (asked.flags & flag) != 0;
}

write_flags write_flags_of(const request& asked) noexcept {
  return {.fua = has_flag(asked, command_flag::fua)};
}

/// One piece of a structured READ; `data` is what the whole request read.
reply_part content_chunk(const reply_frame& frame, const read_piece& piece, std::span<const std::byte> data,
                         bool last) {
  if (piece.hole) return hole_chunk(frame, piece.range, last);
  const auto at = static_cast<std::size_t>(piece.range.offset - frame.offset);
  const auto body = data.subspan(at, static_cast<std::size_t>(piece.range.length));
  return data_chunk(frame, piece.range.offset, body, last);
}

}  // namespace

request_runner::request_runner(const export_entry& served, const session_terms& terms, buffer_pool& buffers,
                               reply_sender& replies)
    : served_(served),
      disk_(*served.target),
      terms_(terms),
      buffers_(buffers),
      replies_(replies),
      workers_(disk_.resources().context) {}

void request_runner::start(const request& asked, buffer_lease payload, std::uint32_t charge_bytes) {
  job next{asked, std::move(payload), charge_bytes};
  if (is_done_at_once(next)) return;
  if (idle_.empty()) return workers_.spawn(work(std::move(next)));
  resumption resume = std::move(idle_.back());
  idle_.pop_back();
  handed_over_ = std::move(next);
  resume();
}

bool request_runner::is_done_at_once(job& next) {
  const request& asked = next.asked;
  const auto code = static_cast<command>(asked.code);
  if (code == command::read) return read_at_once(next);
  if (code != command::write) return false;
  if (!disk_.write_at_once(asked.offset, next.payload.bytes(), write_flags_of(asked))) return false;
  complete(next, result<void>{});
  return true;
}

/// Without a copy of the data here. What begins with zeros is read, since it may be a hole for the client.
bool request_runner::send_from_file(const job& current) {
  const request& asked = current.asked;
  if (asked.length < shortest_file_send || !replies_.sends_files()) return false;
  const std::optional<disk::file_place> place = disk_.cached_place(range_of(asked));
  std::array<std::byte, 512> first;
  if (!place || !read_if_cached(place->descriptor, place->offset, first, false) || is_all_zero(first))
    return false;
  file_piece data{file_descriptor(::fcntl(place->descriptor, F_DUPFD_CLOEXEC, 0)), place->offset,
                  static_cast<std::size_t>(asked.length)};
  if (!data.file) return false;
  if (terms_.structured) {
    queue(file_chunk(frame_of(asked), asked.offset, std::move(data), true), current.charge_bytes);
  } else {
    reply_part part = simple_reply(asked.cookie, wire_error::none);
    part.from_file = std::make_unique<file_piece>(std::move(data));
    queue(std::move(part), current.charge_bytes);
  }
  return true;
}

bool request_runner::read_at_once(const job& current) {
  const request& asked = current.asked;
  if (asked.length == 0 || wants_hole_search(asked)) return false;
  if (send_from_file(current)) return true;
  if (asked.length > disk::longest_at_once) return false;
  std::optional<buffer_lease> data = buffers_.try_acquire(static_cast<std::size_t>(asked.length));
  if (!data || !disk_.read_at_once(asked.offset, data->bytes())) return false;
  const read_piece whole{range_of(asked), false};
  answer_read(current, {&whole, 1}, std::move(*data));
  return true;
}

task<void> request_runner::finish() {
  finishing_ = true;
  for (auto& resume : std::exchange(idle_, {})) resume();
  co_await workers_.join();
}

task<void> request_runner::work(job first) {
  job current = std::move(first);
  for (;;) {
    co_await execute(current);
    current.payload.reset();
    if (finishing_) co_return;
    co_await suspend_until([this](resumption resume) { idle_.push_back(std::move(resume)); });
    if (finishing_) co_return;
    current = std::move(handed_over_);
  }
}

task<void> request_runner::execute(job& current) {
  const request& asked = current.asked;
  switch (static_cast<command>(asked.code)) {
    case command::read:
      co_return co_await read(current);
    case command::write: {
      const result<void> done =
          co_await disk_.write(asked.offset, current.payload.bytes(), write_flags_of(asked));
      co_return complete(current, done);
    }
    case command::flush: {
      const result<void> done = co_await disk_.flush();
      co_return complete(current, done);
    }
    case command::trim: {
      const result<void> done = co_await disk_.discard(range_of(asked), write_flags_of(asked));
      co_return complete(current, done);
    }
    case command::write_zeroes:
      co_return co_await write_zeroes(current);
    case command::block_status:
      co_return co_await block_status(current);
    case command::cache:
      // A hint; copy-on-read and the page cache do better when the data is really read.
      co_return complete(current, result<void>{});
    case command::disconnect:
      break;
  }
  assert(false && "rule_on lets no other command through");
}

task<void> request_runner::read(const job& current) {
  const request& asked = current.asked;
  if (asked.length == 0) co_return complete(current, result<void>{});
  buffer_lease data = co_await buffers_.acquire(static_cast<std::size_t>(asked.length));
  if (!wants_hole_search(asked)) {
    const result<void> done = co_await disk_.read(asked.offset, data.bytes());
    if (!done) co_return complete(current, done);
    const read_piece whole{range_of(asked), false};
    co_return answer_read(current, {&whole, 1}, std::move(data));
  }
  const result<std::vector<read_piece>> pieces = co_await read_pieces(asked, data.bytes());
  if (!pieces) co_return complete(current, pieces.error());
  answer_read(current, *pieces, std::move(data));
}

bool request_runner::wants_hole_search(const request& asked) noexcept {
  return terms_.structured && asked.length >= shortest_hole_search && !has_flag(asked, command_flag::df) &&
         holes_.is_due();
}

task<result<std::vector<read_piece>>> request_runner::read_pieces(const request& asked,
                                                                  std::span<std::byte> into) {
  const result<std::vector<status_run>> runs = co_await disk_.status(range_of(asked), most_read_runs);
  if (!runs) co_return runs.error();
  std::vector<read_piece> pieces = plan_read(range_of(asked), *runs);
  bool any_hole = false;
  for (const read_piece& piece : pieces) {
    any_hole = any_hole || piece.hole;
    if (piece.hole) continue;
    const std::size_t at = static_cast<std::size_t>(piece.range.offset - asked.offset);
    const auto part = into.subspan(at, static_cast<std::size_t>(piece.range.length));
    const result<void> done = co_await disk_.read(piece.range.offset, part);
    if (!done) co_return done.error();
  }
  if (any_hole) {
    holes_.found();
  } else {
    holes_.found_nothing();
  }
  co_return pieces;
}

void request_runner::answer_read(const job& current, std::span<const read_piece> pieces, buffer_lease data) {
  const request& asked = current.asked;
  if (!terms_.structured) {
    reply_part part = simple_reply(asked.cookie, wire_error::none);
    part.body = data.bytes();
    part.lease = std::move(data);
    return queue(std::move(part), current.charge_bytes);
  }
  const read_piece zeros{range_of(asked), true};
  // Zeros found in the data save the socket; data gives itself away in its first bytes.
  const bool all_data = pieces.size() == 1 && !pieces.front().hole;
  if (all_data && asked.length >= shortest_hole && is_all_zero(data.bytes())) {
    holes_.found();
    pieces = {&zeros, 1};
  }
  for (const read_piece& piece : pieces.first(pieces.size() - 1)) {
    queue(content_chunk(frame_of(asked), piece, data.bytes(), false), current.charge_bytes);
  }
  reply_part last = content_chunk(frame_of(asked), pieces.back(), data.bytes(), true);
  last.lease = std::move(data);
  queue(std::move(last), current.charge_bytes);
}

task<void> request_runner::write_zeroes(const job& current) {
  const request& asked = current.asked;
  const zero_flags flags{.fua = has_flag(asked, command_flag::fua),
                         .may_punch = !has_flag(asked, command_flag::no_hole),
                         .fast_only = has_flag(asked, command_flag::fast_zero)};
  const result<void> done = co_await disk_.zero(range_of(asked), flags);
  complete(current, done, flags.fast_only);
}

task<void> request_runner::block_status(const job& current) {
  const request& asked = current.asked;
  const auto query = decode_status_query(asked, current.payload.bytes(), terms_);
  if (!query) {
    co_return answer(asked, wire_error::invalid, "the list of contexts makes no sense", current.charge_bytes);
  }
  const byte_range range{asked.offset, query->length};
  const bool one = has_flag(asked, command_flag::request_one);
  result<std::vector<status_run>> runs = std::vector<status_run>{};
  if (query->contexts.contains_allocation()) {
    runs = co_await disk_.status(range, one ? runs_for_one_extent : most_extents);
    if (!runs) co_return complete(current, runs.error());
  }
  std::vector<reply_part> answers;
  for (meta_context_set left = query->contexts; !left.empty();) {
    const meta_context context = left.take_first();
    const std::size_t most = one ? 1 : most_extents;
    result<std::vector<status_extent>> extents = std::vector<status_extent>{};
    if (is_bitmap(context)) {
      extents = co_await bitmap_extents(served_.bitmaps[bitmap_index_of(context)], range, most);
      if (!extents) co_return complete(current, extents.error());
    } else {
      extents = extents_of(context, *runs, most);
    }
    answers.push_back(status_chunk(frame_of(asked), context, *extents, left.empty()));
  }
  for (reply_part& each : answers) queue(std::move(each), current.charge_bytes);
}

task<result<std::vector<status_extent>>> request_runner::bitmap_extents(std::string name, byte_range range,
                                                                        std::size_t most) {
  bitmap_store* const bitmaps = disk_.chain().active().image->bitmaps();
  if (bitmaps == nullptr) co_return errc::not_supported;
  const outcome<const dirty_bitmap*> bits = co_await bitmaps->load(std::move(name));
  if (!bits) co_return bits.error().code;
  // Both the disk and its bitmap may have another size than the client was told.
  if (!fits(range.offset, range.length, (*bits)->size())) co_return errc::out_of_range;
  co_return extents_of(**bits, range, most);
}

void request_runner::complete(const job& current, const result<void>& done, bool fast_zero) {
  const wire_error error = done ? wire_error::none : wire_error_of(done.error(), fast_zero);
  answer(current.asked, error, describe(error), current.charge_bytes);
}

void request_runner::answer(const request& asked, wire_error error, std::string_view why,
                            std::uint32_t charge_bytes) {
  const bool is_read = static_cast<command>(asked.code) == command::read;
  if (terms_.structured && error != wire_error::none) {
    queue(error_chunk(frame_of(asked), error, why), charge_bytes);
  } else if (terms_.extended || (terms_.structured && is_read)) {
    queue(empty_chunk(frame_of(asked)), charge_bytes);
  } else {
    queue(simple_reply(asked.cookie, error), charge_bytes);
  }
}

void request_runner::queue(reply_part part, std::uint32_t charge_bytes) {
  part.charge_bytes = charge_bytes;
  replies_.queue(std::move(part));
}

}  // namespace weir::nbd
