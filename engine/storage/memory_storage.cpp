#include "engine/storage/memory_storage.hpp"

namespace weir {
namespace {

constexpr std::uint64_t page_bytes = 64 * KiB;

}  // namespace

memory_storage::memory_storage(std::string location, std::uint64_t size)
    : location_(std::move(location)),
      capabilities_{.writable = true,
                    .can_grow = true,
                    .can_punch = true,
                    .fast_zero = true,
                    .reports_holes = true,
                    .alignment = 1},
      content_(size, page_bytes) {}

task<result<void>> memory_storage::do_read(std::uint64_t offset, std::span<std::byte> buffer) {
  content_.read(offset, buffer);
  co_return result<void>{};
}

task<result<void>> memory_storage::do_write(std::uint64_t offset, std::span<const std::byte> data) {
  content_.write(offset, data);
  co_return result<void>{};
}

task<result<void>> memory_storage::do_flush() {
  co_return result<void>{};
}

task<result<void>> memory_storage::do_zero(byte_range range, zero_mode) {
  content_.zero(range);
  co_return result<void>{};
}

task<result<void>> memory_storage::do_discard(byte_range range) {
  content_.discard(range);
  co_return result<void>{};
}

task<result<void>> memory_storage::do_truncate(std::uint64_t length) {
  content_.truncate(length);
  co_return result<void>{};
}

task<result<storage_run>> memory_storage::do_status(byte_range range) {
  const bool data = content_.holds(range.offset);
  std::uint64_t end = align_down(range.offset, page_bytes) + page_bytes;
  while (end < range.end() && content_.holds(end) == data) end += page_bytes;
  co_return storage_run{std::min(end, range.end()) - range.offset, !data};
}

task<result<void>> memory_storage::do_close() {
  co_return result<void>{};
}

}  // namespace weir
