// Bytes at offsets in memory. Untouched pages read as zero and take no memory; copies share pages until one
// side writes.
#pragma once

#include "engine/base/range.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>

namespace weir {

class sparse_bytes {
 public:
  /// Precondition: page_bytes is a power of two. Holes are known at its granularity.
  explicit sparse_bytes(std::uint64_t size, std::uint64_t page_bytes);

  std::uint64_t size() const noexcept { return size_; }
  std::uint64_t page_bytes() const noexcept { return page_bytes_; }
  std::uint64_t allocated_bytes() const noexcept { return pages_.size() * page_bytes_; }

  /// What lies beyond the end reads as zero.
  void read(std::uint64_t offset, std::span<std::byte> buffer) const;
  /// Grows as needed, as do zero() and allocate().
  void write(std::uint64_t offset, std::span<const std::byte> data);
  /// Fills with zeros, dropping whole pages.
  void zero(byte_range range);
  /// Gives every page of the range memory; contents stay.
  void allocate(byte_range range);
  /// As zero(), inside the current size.
  void discard(byte_range range);
  void truncate(std::uint64_t length);

  bool holds(std::uint64_t offset) const { return pages_.contains(offset / page_bytes_); }
  /// Bytes that can be written at range.offset while taking at most `budget_bytes` of new pages.
  std::uint64_t writable_prefix(byte_range range, std::uint64_t budget_bytes) const;

 private:
  using page = std::shared_ptr<std::byte[]>;

  std::byte* own(std::uint64_t index);
  void erase(byte_range range);

  std::uint64_t size_;
  std::uint64_t page_bytes_;
  std::map<std::uint64_t, page> pages_;  // by index
};

}  // namespace weir
