#include "engine/base/dirty_bitmap.hpp"

#include "engine/base/endian.hpp"

#include <bit>
#include <cassert>

namespace weir {

dirty_bitmap::dirty_bitmap(std::uint64_t size, std::uint64_t granularity)
    : size_(size),
      granularity_(granularity),
      bit_count_(size / granularity + (size % granularity != 0 ? 1 : 0)),
      words_(bit_count_ / 64 + 1) {
  assert(std::has_single_bit(granularity));
}

void dirty_bitmap::assign(std::uint64_t first, std::uint64_t last, bool value) noexcept {
  while (first < last) {
    const std::uint64_t shift = first % 64;
    const std::uint64_t count = std::min<std::uint64_t>(64 - shift, last - first);
    const std::uint64_t mask = (count == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << count) - 1) << shift;
    std::uint64_t& word = words_[first / 64];
    const auto before = static_cast<std::uint64_t>(std::popcount(word & mask));
    word = value ? word | mask : word & ~mask;
    set_count_ = set_count_ - before + (value ? count : 0);
    first += count;
  }
}

void dirty_bitmap::resize(std::uint64_t size) {
  const std::uint64_t count = size / granularity_ + (size % granularity_ != 0 ? 1 : 0);
  if (count < bit_count_) assign(count, bit_count_, false);
  size_ = size;
  bit_count_ = count;
  words_.resize(count / 64 + 1);
}

void dirty_bitmap::set(byte_range range) noexcept {
  range = intersection(range, {0, size_});
  if (range.empty()) return;
  assign(range.offset / granularity_, (range.end() - 1) / granularity_ + 1, true);
}

void dirty_bitmap::clear(byte_range range) noexcept {
  range = intersection(range, {0, size_});
  if (range.empty()) return;
  const std::uint64_t first = range.offset / granularity_ + (range.offset % granularity_ != 0 ? 1 : 0);
  const std::uint64_t last = range.end() == size_ ? bit_count_ : range.end() / granularity_;
  if (first < last) assign(first, last, false);
}

bool dirty_bitmap::is_set(std::uint64_t offset) const noexcept {
  if (offset >= size_) return false;
  const std::uint64_t bit = offset / granularity_;
  return (words_[bit / 64] >> (bit % 64) & 1) != 0;
}

std::uint64_t dirty_bitmap::find(std::uint64_t from, bool value) const noexcept {
  while (from < bit_count_) {
    std::uint64_t word = words_[from / 64];
    if (!value) word = ~word;
    word >>= from % 64;
    if (word != 0) return std::min(bit_count_, from + static_cast<std::uint64_t>(std::countr_zero(word)));
    from = (from / 64 + 1) * 64;
  }
  return bit_count_;
}

std::optional<byte_range> dirty_bitmap::next_set(std::uint64_t from, std::uint64_t longest) const noexcept {
  if (from >= size_ || longest == 0) return std::nullopt;
  const std::uint64_t first = find(from / granularity_, true);
  if (first == bit_count_) return std::nullopt;
  const std::uint64_t most = longest / granularity_ + (longest % granularity_ != 0 ? 1 : 0);
  const std::uint64_t last = std::min(find(first, false), first + std::min(most, bit_count_ - first));
  return range_between(first * granularity_, std::min(size_, last * granularity_));
}

void dirty_bitmap::copy_bits(std::uint64_t first_bit, std::span<std::byte> into) const noexcept {
  assert(first_bit % 64 == 0 && into.size() % sizeof(std::uint64_t) == 0);
  for (std::size_t at = 0; at < into.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t index = first_bit / 64 + at / sizeof(std::uint64_t);
    store_little(into.data() + at, index < words_.size() ? words_[index] : std::uint64_t{0});
  }
}

void dirty_bitmap::assign_bits(std::uint64_t first_bit, std::span<const std::byte> from) noexcept {
  assert(first_bit % 64 == 0 && from.size() % sizeof(std::uint64_t) == 0);
  for (std::size_t at = 0; at < from.size(); at += sizeof(std::uint64_t)) {
    const std::uint64_t first = first_bit + at * 8;
    if (first >= bit_count_) return;
    auto word = load_little<std::uint64_t>(from.data() + at);
    const std::uint64_t left = bit_count_ - first;
    if (left < 64) word &= (std::uint64_t{1} << left) - 1;
    std::uint64_t& kept = words_[first / 64];
    set_count_ += static_cast<std::uint64_t>(std::popcount(word));
    set_count_ -= static_cast<std::uint64_t>(std::popcount(kept));
    kept = word;
  }
}

}  // namespace weir
