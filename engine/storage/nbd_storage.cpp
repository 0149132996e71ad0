#include "engine/storage/nbd_storage.hpp"

#include "engine/base/in_flight.hpp"
#include "engine/storage/allocation_map.hpp"
#include "engine/storage/nbd_link.hpp"
#include "engine/storage/resend_limit.hpp"
#include "engine/storage/shared_flush.hpp"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace weir {
namespace {

/// How far ahead base:allocation is asked.
constexpr std::uint64_t learning_step = 1 * GiB;
/// A server that tells less than so much at a time, so often in a row, is not asked again.
constexpr std::uint64_t worthwhile_answer = 1 * MiB;
constexpr unsigned most_poor_answers = 16;
struct operation {
  enum class kind : std::uint8_t { read, write, zero, trim, flush };
  kind what;
  byte_range range;
  std::byte* into = nullptr;
  const std::byte* from = nullptr;
  bool keep_allocated = false;
};

task<result<void>> send(nbd_connection& over, const operation& wanted) {
  const auto length = static_cast<std::size_t>(wanted.range.length);
  switch (wanted.what) {
    case operation::kind::read:
      return over.read(wanted.range.offset, {wanted.into, length});
    case operation::kind::write:
      return over.write(wanted.range.offset, {wanted.from, length});
    case operation::kind::zero:
      return over.zero(wanted.range, wanted.keep_allocated);
    case operation::kind::trim:
      return over.trim(wanted.range);
    case operation::kind::flush:
      break;
  }
  return over.flush();
}

class nbd_storage final : public storage {
 public:
  nbd_storage(executor context, worker_pool& workers, nbd_target target, nbd_client_settings settings)
      : link_(context, workers, std::move(target), settings),
        patience_(settings.reconnect_limit),
        held_(context),
        learnt_(context),
        flush_(context) {}

  task<outcome<void>> connect(bool writable);

  const std::string& location() const noexcept override { return link_.target().location; }
  const storage_capabilities& capabilities() const noexcept override { return capabilities_; }
  std::uint64_t size() const noexcept override { return link_.facts().size; }
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  void note_descriptor_write(byte_range) noexcept override {}
  std::optional<identity_type> identity() const noexcept override { return std::nullopt; }

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override;
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override;
  task<result<void>> do_flush() override;
  task<result<void>> do_zero(byte_range range, zero_mode mode) override;
  task<result<void>> do_discard(byte_range range) override;
  task<result<void>> do_truncate(std::uint64_t length) override;
  task<result<storage_run>> do_status(byte_range range) override;
  task<result<void>> do_close() override;

  task<result<std::uint64_t>> perform(operation wanted);
  task<result<std::uint64_t>> perform_in_pieces(operation wanted, std::uint64_t longest);
  task<result<void>> read_data(byte_range range, std::span<std::byte> buffer);
  task<result<void>> write_bounced(byte_range range, std::span<const std::byte> data);
  task<result<std::vector<nbd_run>>> ask_status(byte_range range);
  task<result<allocation_map::run>> find_out(byte_range range);
  task<void> learn(byte_range range);
  std::uint32_t block() const noexcept { return link_.facts().minimum_block; }
  bool is_straight(byte_range range) const noexcept {
    return is_aligned(range.offset, block()) && is_aligned(range.length, block());
  }
  task<result<void>> change(operation wanted, std::uint64_t longest);
  void note_unflushed(std::uint64_t losses) noexcept;
  task<result<void>> flush_now();
  task<in_flight_ranges::hold> hold_blocks(byte_range range);

  nbd_link link_;
  std::chrono::milliseconds patience_;
  storage_capabilities capabilities_;
  in_flight_ranges held_;  ///< blocks being changed, where the server wants aligned requests
  allocation_map known_;
  bool learns_ = false;
  bool learning_ = false;
  unsigned poor_answers_ = 0;
  async_event learnt_;
  /// Changes were made that no flush covers; the link's losses when the first of them was sent.
  std::optional<std::uint64_t> unflushed_;
  shared_flush flush_;
};

task<outcome<void>> nbd_storage::connect(bool writable) {
  const outcome<void> connected = co_await link_.connect();
  if (!connected) co_return connected;
  const nbd_export_facts& facts = link_.facts();
  if (writable && facts.read_only) {
    co_await link_.close();
    co_return make_failure(errc::read_only, location(), "the server exports it read-only");
  }
  learns_ = facts.has_allocation && !writable;
  capabilities_ = {.writable = writable,
                   .can_grow = false,
                   .can_punch = facts.can_zero || facts.can_trim,
                   .fast_zero = facts.can_zero,
                   .reports_holes = facts.has_allocation,
                   .alignment = facts.minimum_block};
  co_return outcome<void>{};
}

// Sending

/// Returns the link's losses when the request that was answered was sent.
task<result<std::uint64_t>> nbd_storage::perform(operation wanted) {
  resend_limit limit(patience_);
  while (true) {
    const result<std::shared_ptr<nbd_connection>> over = co_await link_.acquire();
    if (!over) co_return over.error();
    const std::uint64_t losses = link_.loss_count();
    const result<void> done = co_await send(**over, wanted);
    if (done) co_return losses;
    if (done.error() == errno_code(ESHUTDOWN)) (*over)->abandon();
    if ((*over)->is_usable()) co_return done.error();
    if (!limit.may_go_on()) co_return errno_code(EIO);
  }
}

/// Returns the link's losses when the first piece that was answered was sent.
task<result<std::uint64_t>> nbd_storage::perform_in_pieces(operation wanted, std::uint64_t longest) {
  const byte_range whole = wanted.range;
  std::optional<std::uint64_t> losses;
  for (std::uint64_t at = whole.offset; at < whole.end(); at = wanted.range.end()) {
    wanted.range = {at, std::min(longest, whole.end() - at)};
    const result<std::uint64_t> done = co_await perform(wanted);
    if (!done) co_return done;
    if (!losses) losses = *done;
    if (wanted.into != nullptr) wanted.into += wanted.range.length;
    if (wanted.from != nullptr) wanted.from += wanted.range.length;
  }
  co_return losses.value_or(link_.loss_count());
}

/// What a read or flush makes of it.
result<void> without_losses(const result<std::uint64_t>& done) {
  if (!done) return done.error();
  return {};
}

// Reading

task<result<void>> nbd_storage::do_read(std::uint64_t offset, std::span<std::byte> buffer) {
  const byte_range wanted{offset, buffer.size()};
  const byte_range inside = intersection(wanted, {0, size()});
  std::memset(buffer.data() + inside.length, 0, buffer.size() - static_cast<std::size_t>(inside.length));
  for (std::uint64_t at = inside.offset; at < inside.end();) {
    byte_range piece = range_between(at, inside.end());
    bool reads_zero = false;
    if (learns_) {
      const result<allocation_map::run> known = co_await find_out(piece);
      if (!known) co_return known.error();
      piece = intersection(piece, known->range);
      reads_zero = known->reads_zero;
    }
    const std::span<std::byte> part =
        buffer.subspan(static_cast<std::size_t>(at - offset), static_cast<std::size_t>(piece.length));
    result<void> done;
    if (reads_zero) {
      std::memset(part.data(), 0, part.size());
    } else {
      done = co_await read_data(piece, part);
    }
    if (!done) co_return done;
    at = piece.end();
  }
  co_return result<void>{};
}

task<result<void>> nbd_storage::read_data(byte_range range, std::span<std::byte> buffer) {
  if (is_straight(range)) {
    const operation wanted{.what = operation::kind::read, .range = range, .into = buffer.data()};
    const result<std::uint64_t> done = co_await perform_in_pieces(wanted, link_.facts().longest_request);
    co_return without_losses(done);
  }
  const byte_range blocks = align_outward(range, block());
  std::vector<std::byte> bounce(static_cast<std::size_t>(blocks.length));
  const operation wanted{.what = operation::kind::read, .range = blocks, .into = bounce.data()};
  const result<std::uint64_t> done = co_await perform_in_pieces(wanted, link_.facts().longest_request);
  if (done) std::memcpy(buffer.data(), bounce.data() + (range.offset - blocks.offset), buffer.size());
  co_return without_losses(done);
}

task<result<std::vector<nbd_run>>> nbd_storage::ask_status(byte_range range) {
  resend_limit limit(patience_);
  while (true) {
    const result<std::shared_ptr<nbd_connection>> over = co_await link_.acquire();
    if (!over) co_return over.error();
    result<std::vector<nbd_run>> told = co_await (*over)->status(range);
    if (told || (*over)->is_usable()) co_return told;
    if (!limit.may_go_on()) co_return errno_code(EIO);
  }
}

/// The run at range.offset as far as it is known; asks the server where nothing is. One question at a time.
task<result<allocation_map::run>> nbd_storage::find_out(byte_range range) {
  while (learns_) {
    const std::optional<allocation_map::run> known = known_.find(range.offset);
    if (known) co_return *known;
    if (learning_) {
      co_await learnt_.wait();
      continue;
    }
    learning_ = true;
    co_await learn(range);
    learning_ = false;
    learnt_.notify_all();
  }
  co_return allocation_map::run{range, false};
}

task<void> nbd_storage::learn(byte_range range) {
  const std::uint64_t begin = align_down(range.offset, block());
  const byte_range asked = intersection({begin, learning_step}, {0, size()});
  const result<std::vector<nbd_run>> told = co_await ask_status(asked);
  std::uint64_t at = begin;
  if (told) {
    known_.make_room(told->size());
    for (const nbd_run& run : *told) {
      known_.learn({at, run.length}, run.reads_zero);
      at += run.length;
    }
  }
  // A server that fails here, or tells next to nothing, is taken at its data.
  const bool poor = at - begin < std::min(asked.length, worthwhile_answer);
  poor_answers_ = poor ? poor_answers_ + 1 : 0;
  if (!told || at <= range.offset || poor_answers_ >= most_poor_answers) learns_ = false;
}

task<result<storage_run>> nbd_storage::do_status(byte_range range) {
  if (learns_) {
    const result<allocation_map::run> known = co_await find_out(range);
    if (!known) co_return known.error();
    co_return storage_run{intersection(range, known->range).length, known->reads_zero};
  }
  if (!link_.facts().has_allocation) co_return storage_run{range.length, false};
  const byte_range asked = intersection({align_down(range.offset, block()), nbd_connection::longest_effect},
                                        align_outward(range, block()));
  const result<std::vector<nbd_run>> told = co_await ask_status(asked);
  if (!told) co_return told.error();
  const byte_range first{asked.offset, told->front().length};
  // Less than a block.
  if (first.end() <= range.offset) co_return errno_code(EPROTO);
  co_return storage_run{intersection(range, first).length, told->front().reads_zero};
}

// Changing

/// Changes and remembers that a flush must follow.
task<result<void>> nbd_storage::change(operation wanted, std::uint64_t longest) {
  const std::uint64_t losses_before = link_.loss_count();
  const result<std::uint64_t> done = co_await perform_in_pieces(wanted, longest);
  note_unflushed(done ? *done : losses_before);
  co_return without_losses(done);
}

void nbd_storage::note_unflushed(std::uint64_t losses) noexcept {
  unflushed_ = unflushed_ ? std::min(*unflushed_, losses) : losses;
}

/// Exclusive ownership of the blocks; nothing where every byte can be written by itself.
task<in_flight_ranges::hold> nbd_storage::hold_blocks(byte_range range) {
  if (block() == 1) co_return in_flight_ranges::hold{};
  co_return co_await held_.acquire(align_outward(range, block()));
}

task<result<void>> nbd_storage::do_write(std::uint64_t offset, std::span<const std::byte> data) {
  const byte_range range{offset, data.size()};
  const in_flight_ranges::hold held = co_await hold_blocks(range);
  if (!is_straight(range)) co_return co_await write_bounced(range, data);
  const operation wanted{.what = operation::kind::write, .range = range, .from = data.data()};
  co_return co_await change(wanted, link_.facts().longest_request);
}

/// Precondition: the blocks are held.
task<result<void>> nbd_storage::write_bounced(byte_range range, std::span<const std::byte> data) {
  const byte_range blocks = align_outward(range, block());
  std::vector<std::byte> bounce(static_cast<std::size_t>(blocks.length));
  const byte_range first{blocks.offset, block()};
  const byte_range last{blocks.end() - block(), block()};
  result<std::uint64_t> done = 0;
  if (!range.contains(first)) {
    const operation wanted{.what = operation::kind::read, .range = first, .into = bounce.data()};
    done = co_await perform(wanted);
  }
  if (done && last != first && !range.contains(last)) {
    std::byte* into = bounce.data() + (last.offset - blocks.offset);
    const operation wanted{.what = operation::kind::read, .range = last, .into = into};
    done = co_await perform(wanted);
  }
  if (!done) co_return done.error();
  std::memcpy(bounce.data() + (range.offset - blocks.offset), data.data(), data.size());
  const operation wanted{.what = operation::kind::write, .range = blocks, .from = bounce.data()};
  co_return co_await change(wanted, link_.facts().longest_request);
}

task<result<void>> nbd_storage::do_flush() {
  if (!link_.facts().can_flush) co_return result<void>{};
  const auto flush = [this] { return flush_now(); };
  co_return co_await flush_.run(flush);
}

/// Precondition: no other flush is under way.
task<result<void>> nbd_storage::flush_now() {
  if (!unflushed_) co_return result<void>{};
  // Changes that are answered from here on are the next flush's.
  const std::uint64_t covered_since = *std::exchange(unflushed_, std::nullopt);
  const operation wanted{.what = operation::kind::flush, .range = {}};
  const result<std::uint64_t> done = co_await perform(wanted);
  if (!done) {
    note_unflushed(covered_since);
    co_return done.error();
  }
  if (*done == covered_since) co_return result<void>{};
  // Who asked meanwhile may miss the same changes.
  if (flush_.has_next()) note_unflushed(covered_since);
  co_return errno_code(EIO);
}

task<result<void>> nbd_storage::do_zero(byte_range range, zero_mode mode) {
  if (!link_.facts().can_zero || !is_straight(range)) co_return errc::not_supported;
  const in_flight_ranges::hold held = co_await hold_blocks(range);
  operation wanted{.what = operation::kind::zero, .range = range};
  wanted.keep_allocated = mode == zero_mode::keep_allocated;
  co_return co_await change(wanted, nbd_connection::longest_effect);
}

task<result<void>> nbd_storage::do_discard(byte_range range) {
  const byte_range blocks = align_inward(range, block());
  if (!link_.facts().can_trim || blocks.empty()) co_return result<void>{};
  const in_flight_ranges::hold held = co_await hold_blocks(blocks);
  const operation wanted{.what = operation::kind::trim, .range = blocks};
  co_return co_await change(wanted, nbd_connection::longest_effect);
}

task<result<void>> nbd_storage::do_truncate(std::uint64_t length) {
  if (length == size()) co_return result<void>{};
  co_return errc::not_supported;
}

task<result<void>> nbd_storage::do_close() {
  co_await link_.close();
  co_return result<void>{};
}

}  // namespace

task<outcome<std::unique_ptr<storage>>> open_nbd_storage(executor context, worker_pool& workers,
                                                         nbd_target target, nbd_client_settings settings,
                                                         bool writable) {
  auto opened = std::make_unique<nbd_storage>(context, workers, std::move(target), settings);
  const outcome<void> connected = co_await opened->connect(writable);
  if (!connected) co_return connected.error();
  co_return std::unique_ptr<storage>(std::move(opened));
}

}  // namespace weir
