#include "engine/storage/simulated_storage.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>

namespace weir {

simulated_storage::simulated_storage(simulated_disk& disk, simulated_storage_options options)
    : disk_(disk), options_(std::move(options)), random_(options_.seed) {}

std::optional<storage::identity_type> simulated_storage::identity() const noexcept {
  return identity_type{0, std::bit_cast<std::uintptr_t>(&disk_)};
}

task<void> simulated_storage::pass_time() {
  if (options_.clock == nullptr) co_return;
  using count = virtual_clock::duration::rep;
  const count drawn = std::uniform_int_distribution<count>(options_.shortest_latency.count(),
                                                           options_.longest_latency.count())(random_);
  co_await options_.clock->sleep(virtual_clock::duration(drawn / 2));
}

task<result<void>> simulated_storage::do_read(std::uint64_t offset, std::span<std::byte> buffer) {
  co_await pass_time();
  const result<void> answer = disk_.read(offset, buffer);
  co_await pass_time();
  co_return answer;
}

task<result<void>> simulated_storage::change(disk_operation kind, byte_range range,
                                             std::span<const std::byte> data, bool keep_allocated) {
  const bool was_powered = disk_.powered();
  co_await pass_time();
  disk_change what{kind, range, {data.begin(), data.end()}, keep_allocated};
  const result<std::uint64_t> ticket = disk_.change(std::move(what), was_powered);
  co_await pass_time();
  if (!ticket) co_return ticket.error();
  disk_.answered(*ticket);
  co_return result<void>{};
}

task<result<void>> simulated_storage::do_write(std::uint64_t offset, std::span<const std::byte> data) {
  co_return co_await change(disk_operation::write, {offset, data.size()}, data, false);
}

task<result<void>> simulated_storage::do_flush() {
  const std::uint64_t issued = disk_.issue_flush();
  co_await pass_time();
  const result<void> answer = disk_.flush(issued);
  co_await pass_time();
  co_return answer;
}

task<result<void>> simulated_storage::do_zero(byte_range range, zero_mode mode) {
  if (!options_.capabilities.fast_zero) co_return errc::not_supported;
  co_return co_await change(disk_operation::zero, range, {}, mode == zero_mode::keep_allocated);
}

task<result<void>> simulated_storage::do_discard(byte_range range) {
  const bool ignored = options_.fickle_discard && (random_() & 1) != 0;
  if (ignored || !options_.capabilities.can_punch) co_return result<void>{};
  co_return co_await change(disk_operation::discard, range, {}, false);
}

task<result<void>> simulated_storage::do_truncate(std::uint64_t length) {
  if (!options_.capabilities.can_grow) co_return errc::not_supported;
  co_return co_await change(disk_operation::truncate, {length, 0}, {}, false);
}

task<result<storage_run>> simulated_storage::do_status(byte_range range) {
  co_await pass_time();
  if (!disk_.powered()) co_return errno_code(EIO);
  if (!options_.capabilities.reports_holes) co_return storage_run{range.length, false};
  const sparse_bytes& content = disk_.visible();
  const bool data = content.holds(range.offset);
  std::uint64_t end = align_down(range.offset, simulated_disk::page_bytes) + simulated_disk::page_bytes;
  while (end < range.end() && content.holds(end) == data) end += simulated_disk::page_bytes;
  co_return storage_run{std::min(end, range.end()) - range.offset, !data};
}

task<result<void>> simulated_storage::do_close() {
  co_return result<void>{};
}

}  // namespace weir
