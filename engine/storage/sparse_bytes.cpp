#include "engine/storage/sparse_bytes.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

namespace weir {

sparse_bytes::sparse_bytes(std::uint64_t size, std::uint64_t page_bytes)
    : size_(size), page_bytes_(page_bytes) {
  assert(std::has_single_bit(page_bytes));
}

std::byte* sparse_bytes::own(std::uint64_t index) {
  page& target = pages_[index];
  if (!target) {
    target = std::make_shared<std::byte[]>(page_bytes_);
  } else if (target.use_count() > 1) {
    page copy = std::make_shared<std::byte[]>(page_bytes_);
    std::memcpy(copy.get(), target.get(), page_bytes_);
    target = std::move(copy);
  }
  return target.get();
}

void sparse_bytes::read(std::uint64_t offset, std::span<std::byte> buffer) const {
  while (!buffer.empty()) {
    const std::uint64_t within = offset % page_bytes_;
    const auto length =
        static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), page_bytes_ - within));
    const auto found = pages_.find(offset / page_bytes_);
    if (found == pages_.end()) {
      std::memset(buffer.data(), 0, length);
    } else {
      std::memcpy(buffer.data(), found->second.get() + within, length);
    }
    offset += length;
    buffer = buffer.subspan(length);
  }
}

void sparse_bytes::write(std::uint64_t offset, std::span<const std::byte> data) {
  size_ = std::max(size_, offset + data.size());
  while (!data.empty()) {
    const std::uint64_t within = offset % page_bytes_;
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(data.size(), page_bytes_ - within));
    std::memcpy(own(offset / page_bytes_) + within, data.data(), length);
    offset += length;
    data = data.subspan(length);
  }
}

void sparse_bytes::erase(byte_range range) {
  auto at = pages_.lower_bound(range.offset / page_bytes_);
  while (at != pages_.end() && at->first * page_bytes_ < range.end()) {
    const byte_range whole{at->first * page_bytes_, page_bytes_};
    const byte_range part = intersection(whole, range);
    if (part == whole) {
      at = pages_.erase(at);
    } else {
      std::memset(own(at->first) + (part.offset - whole.offset), 0, part.length);
      ++at;
    }
  }
}

void sparse_bytes::zero(byte_range range) {
  size_ = std::max(size_, range.end());
  erase(range);
}

void sparse_bytes::allocate(byte_range range) {
  if (range.empty()) return;
  size_ = std::max(size_, range.end());
  for (std::uint64_t index = range.offset / page_bytes_; index <= (range.end() - 1) / page_bytes_; ++index) {
    own(index);
  }
}

void sparse_bytes::discard(byte_range range) {
  erase(intersection(range, {0, size_}));
}

void sparse_bytes::truncate(std::uint64_t length) {
  // Beyond the end all pages are zero or absent: growing again shows zeros.
  if (length < size_) erase(range_between(length, align_up(size_, page_bytes_)));
  size_ = length;
}

std::uint64_t sparse_bytes::writable_prefix(byte_range range, std::uint64_t budget_bytes) const {
  std::uint64_t at = range.offset;
  while (at < range.end()) {
    if (!holds(at)) {
      if (budget_bytes < page_bytes_) break;
      budget_bytes -= page_bytes_;
    }
    at = std::min(range.end(), align_down(at, page_bytes_) + page_bytes_);
  }
  return at - range.offset;
}

}  // namespace weir
