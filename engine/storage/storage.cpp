#include "engine/storage/storage.hpp"

#include <cerrno>
#include <limits>

namespace weir {
namespace {

// Offsets reach the kernel as a signed 64-bit off_t.
constexpr std::uint64_t highest_end = std::numeric_limits<std::int64_t>::max();

result<void> already_done() {
  return {};
}

}  // namespace

task<result<void>> storage::read(std::uint64_t offset, std::span<std::byte> buffer) {
  if (closed_) co_return errc::closed;
  if (!fits(offset, buffer.size(), highest_end)) co_return errc::out_of_range;
  if (buffer.empty()) co_return already_done();
  co_return co_await do_read(offset, buffer);
}

task<result<void>> storage::write(std::uint64_t offset, std::span<const std::byte> data) {
  if (closed_) co_return errc::closed;
  if (!capabilities().writable) co_return errc::read_only;
  if (!fits(offset, data.size(), highest_end)) co_return errno_code(EFBIG);
  if (data.empty()) co_return already_done();
  if (!capabilities().can_grow && !fits(offset, data.size(), size())) co_return errno_code(ENOSPC);
  co_return co_await do_write(offset, data);
}

task<result<void>> storage::flush() {
  if (closed_) co_return errc::closed;
  if (!capabilities().writable) co_return already_done();
  co_return co_await do_flush();
}

task<result<void>> storage::zero(byte_range range, zero_mode mode) {
  if (closed_) co_return errc::closed;
  if (!capabilities().writable) co_return errc::read_only;
  if (!fits(range.offset, range.length, highest_end)) co_return errno_code(EFBIG);
  if (range.empty()) co_return already_done();
  if (!capabilities().can_grow && !fits(range.offset, range.length, size())) co_return errno_code(ENOSPC);
  co_return co_await do_zero(range, mode);
}

task<result<void>> storage::discard(byte_range range) {
  if (closed_) co_return errc::closed;
  if (!capabilities().writable) co_return errc::read_only;
  if (!fits(range.offset, range.length, highest_end)) co_return errc::out_of_range;
  range = intersection(range, {0, size()});
  if (range.empty()) co_return already_done();
  co_return co_await do_discard(range);
}

task<result<void>> storage::truncate(std::uint64_t length) {
  if (closed_) co_return errc::closed;
  if (!capabilities().writable) co_return errc::read_only;
  if (length > highest_end) co_return errno_code(EFBIG);
  co_return co_await do_truncate(length);
}

task<result<storage_run>> storage::status(byte_range range) {
  if (closed_) co_return errc::closed;
  if (range.empty() || range.offset >= size()) co_return errc::out_of_range;
  range = intersection(range, {0, size()});
  co_return co_await do_status(range);
}

task<result<void>> storage::close() {
  if (closed_) co_return already_done();
  closed_ = true;
  co_return co_await do_close();
}

}  // namespace weir
