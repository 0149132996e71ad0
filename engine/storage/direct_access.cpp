#include "engine/storage/direct_access.hpp"

#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <memory>
#include <new>

namespace weir {
namespace {

constexpr std::uint64_t longest_bounce = 1 * MiB;

class bounce_buffer {
 public:
  bounce_buffer(std::uint64_t length, std::uint32_t alignment)
      : alignment_(std::align_val_t{alignment}),
        bytes_(static_cast<std::byte*>(::operator new(length, alignment_)), length) {}
  bounce_buffer(const bounce_buffer&) = delete;
  bounce_buffer& operator=(const bounce_buffer&) = delete;
  ~bounce_buffer() { ::operator delete(bytes_.data(), alignment_); }
  std::span<std::byte> first(std::uint64_t length) const noexcept { return bytes_.first(length); }

 private:
  std::align_val_t alignment_;
  std::span<std::byte> bytes_;
};

}  // namespace

direct_access::direct_access(file_io& io, int descriptor, direct_alignment alignment, std::uint64_t& size,
                             bool has_end)
    : io_(io),
      descriptor_(descriptor),
      alignment_(alignment),
      size_(size),
      has_end_(has_end),
      held_(io.context()) {}

bool direct_access::is_straight(std::uint64_t offset, const std::byte* data,
                                std::size_t length) const noexcept {
  return is_aligned(offset, alignment_.block) && is_aligned(length, alignment_.block) &&
         is_aligned(std::bit_cast<std::uintptr_t>(data), alignment_.memory);
}

// Writing the range's blocks would make the file longer than the range asks for.
bool direct_access::overshoots(byte_range range) const noexcept {
  return has_end_ && align_up(range.end(), alignment_.block) > std::max(size_, range.end());
}

task<in_flight_ranges::hold> direct_access::acquire(byte_range range) {
  const byte_range blocks = range.end() == to_the_end
                                ? range_between(align_down(range.offset, alignment_.block), to_the_end)
                                : align_outward(range, alignment_.block);
  co_return co_await held_.acquire(blocks);
}

task<result<void>> direct_access::read(std::uint64_t offset, std::span<std::byte> buffer) {
  if (is_straight(offset, buffer.data(), buffer.size())) {
    co_return co_await io_.read(descriptor_, offset, buffer, alignment_.block);
  }
  const byte_range range{offset, buffer.size()};
  const byte_range blocks = align_outward(range, alignment_.block);
  const bounce_buffer bounce(std::min(blocks.length, longest_bounce), alignment_.memory);
  for (std::uint64_t at = blocks.offset; at < blocks.end();) {
    const byte_range chunk{at, std::min(longest_bounce, blocks.end() - at)};
    const std::span<std::byte> bytes = bounce.first(chunk.length);
    const result<void> done = co_await io_.read(descriptor_, at, bytes, alignment_.block);
    if (!done) co_return done;
    const byte_range part = intersection(chunk, range);
    std::memcpy(buffer.data() + (part.offset - offset), bytes.data() + (part.offset - at), part.length);
    at = chunk.end();
  }
  co_return result<void>{};
}

task<result<void>> direct_access::write(std::uint64_t offset, std::span<const std::byte> data) {
  const byte_range range{offset, data.size()};
  for (;;) {
    const bool overshooting = overshoots(range);
    const byte_range claimed = overshooting ? range_between(offset, to_the_end) : range;
    const in_flight_ranges::hold held = co_await acquire(claimed);
    if (overshoots(range) && !overshooting) continue;  // the file was truncated meanwhile
    result<void> done;
    if (is_straight(offset, data.data(), data.size())) {
      done = co_await io_.write(descriptor_, offset, data);
    } else {
      done = co_await write_bounced(range, data);
    }
    if (overshoots(range)) {
      const result<void> cut_back = co_await cut(done ? std::max(size_, range.end()) : size_);
      if (done) done = cut_back;
    }
    if (done) size_ = std::max(size_, range.end());
    co_return done;
  }
}

task<result<void>> direct_access::write_bounced(byte_range range, std::span<const std::byte> data) {
  const byte_range blocks = align_outward(range, alignment_.block);
  const bounce_buffer bounce(std::min(blocks.length, longest_bounce), alignment_.memory);
  for (std::uint64_t at = blocks.offset; at < blocks.end();) {
    const byte_range chunk{at, std::min(longest_bounce, blocks.end() - at)};
    const byte_range part = intersection(chunk, range);
    const std::span<const std::byte> from = data.subspan(part.offset - range.offset, part.length);
    const result<void> done = co_await write_chunk(chunk, part, from, bounce.first(chunk.length));
    if (!done) co_return done;
    at = chunk.end();
  }
  co_return result<void>{};
}

task<result<void>> direct_access::write_chunk(byte_range blocks, byte_range part,
                                              std::span<const std::byte> data, std::span<std::byte> bounce) {
  const std::uint32_t block = alignment_.block;
  const byte_range first{blocks.offset, block};
  const byte_range last{blocks.end() - block, block};
  if (!part.contains(first)) {
    const result<void> done = co_await io_.read(descriptor_, first.offset, bounce.first(block), block);
    if (!done) co_return done;
  }
  if (last != first && !part.contains(last)) {
    const result<void> done = co_await io_.read(descriptor_, last.offset, bounce.last(block), block);
    if (!done) co_return done;
  }
  std::memcpy(bounce.data() + (part.offset - blocks.offset), data.data(), part.length);
  co_return co_await io_.write(descriptor_, blocks.offset, bounce);
}

task<result<void>> direct_access::cut(std::uint64_t length) {
  const int descriptor = descriptor_;
  const auto work = [descriptor, length]() -> result<void> {
    if (::ftruncate(descriptor, static_cast<off_t>(length)) != 0) return errno_code(errno);
    return {};
  };
  co_return co_await io_.workers().run(work);
}

}  // namespace weir
