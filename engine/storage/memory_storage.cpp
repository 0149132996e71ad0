#include "engine/storage/memory_storage.hpp"

#include <cstring>

namespace weir {

memory_storage::memory_storage(std::string location, std::uint64_t size)
    : location_(std::move(location)),
      capabilities_{.writable = true,
                    .can_grow = true,
                    .can_punch = true,
                    .fast_zero = true,
                    .reports_holes = true,
                    .alignment = 1},
      size_(size) {}

task<result<void>> memory_storage::do_read(std::uint64_t offset, std::span<std::byte> buffer) {
  while (!buffer.empty()) {
    const std::uint64_t within = offset % page_bytes;
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), page_bytes - within));
    const auto found = pages_.find(offset / page_bytes);
    if (found == pages_.end()) {
      std::memset(buffer.data(), 0, length);
    } else {
      std::memcpy(buffer.data(), found->second->data() + within, length);
    }
    offset += length;
    buffer = buffer.subspan(length);
  }
  co_return result<void>{};
}

task<result<void>> memory_storage::do_write(std::uint64_t offset, std::span<const std::byte> data) {
  size_ = std::max(size_, offset + data.size());
  while (!data.empty()) {
    const std::uint64_t within = offset % page_bytes;
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), page_bytes - within));
    std::unique_ptr<page>& target = pages_[offset / page_bytes];
    if (!target) target = std::make_unique<page>();
    std::memcpy(target->data() + within, data.data(), length);
    offset += length;
    data = data.subspan(length);
  }
  co_return result<void>{};
}

task<result<void>> memory_storage::do_flush() {
  co_return result<void>{};
}

void memory_storage::erase(byte_range range) {
  auto at = pages_.lower_bound(range.offset / page_bytes);
  while (at != pages_.end() && at->first * page_bytes < range.end()) {
    const byte_range whole{at->first * page_bytes, page_bytes};
    const byte_range part = intersection(whole, range);
    if (part == whole) {
      at = pages_.erase(at);
    } else {
      std::memset(at->second->data() + (part.offset - whole.offset), 0, part.length);
      ++at;
    }
  }
}

task<result<void>> memory_storage::do_zero(byte_range range, zero_mode) {
  size_ = std::max(size_, range.end());
  erase(range);
  co_return result<void>{};
}

task<result<void>> memory_storage::do_discard(byte_range range) {
  erase(range);
  co_return result<void>{};
}

task<result<void>> memory_storage::do_truncate(std::uint64_t length) {
  if (length < size_) erase(range_between(length, size_));
  size_ = length;
  co_return result<void>{};
}

task<result<storage_run>> memory_storage::do_status(byte_range range) {
  const auto holds = [this](std::uint64_t offset) { return pages_.contains(offset / page_bytes); };
  const bool data = holds(range.offset);
  std::uint64_t end = align_down(range.offset, page_bytes) + page_bytes;
  while (end < range.end() && holds(end) == data) end += page_bytes;
  co_return storage_run{std::min(end, range.end()) - range.offset, !data};
}

task<result<void>> memory_storage::do_close() {
  co_return result<void>{};
}

}  // namespace weir
