// Bytes received and not yet parsed: one flat buffer, filled at the end, consumed at the front.
#pragma once

#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

namespace weir::nbd {

class receive_buffer {
 public:
  /// Untouched parts cost no memory.
  explicit receive_buffer(std::size_t capacity)
      : bytes_(std::make_unique_for_overwrite<std::byte[]>(capacity)), capacity_(capacity) {}

  std::span<const std::byte> content() const noexcept { return {bytes_.get() + first_, last_ - first_}; }

  void consume(std::size_t length) noexcept {
    first_ += length;
    if (first_ == last_) first_ = last_ = 0;
  }

  /// Room behind the content, which is moved to the front first. Never empty unless the content fills the
  /// buffer.
  std::span<std::byte> room() noexcept {
    if (first_ > 0) {
      std::memmove(bytes_.get(), bytes_.get() + first_, last_ - first_);
      last_ -= first_;
      first_ = 0;
    }
    return {bytes_.get() + last_, capacity_ - last_};
  }
  /// `length` bytes were received into room().
  void fill(std::size_t length) noexcept { last_ += length; }

 private:
  std::unique_ptr<std::byte[]> bytes_;
  std::size_t capacity_;
  std::size_t first_ = 0;
  std::size_t last_ = 0;
};

}  // namespace weir::nbd
