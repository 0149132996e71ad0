// Takes fields off the front of a received message. A field that is not all there leaves the reader failed,
// and everything taken from then on is zero or empty: check ok() once, after the last field.
#pragma once

#include "engine/base/endian.hpp"

#include <concepts>
#include <cstddef>
#include <span>
#include <string_view>

namespace weir::nbd {

class wire_reader {
 public:
  explicit wire_reader(std::span<const std::byte> message) : rest_(message) {}

  template <std::unsigned_integral T>
  T take() noexcept {
    const std::span<const std::byte> field = take_bytes(sizeof(T));
    return field.size() == sizeof(T) ? load_big<T>(field.data()) : T{0};
  }

  std::span<const std::byte> take_bytes(std::size_t length) noexcept {
    if (!ok_ || length > rest_.size()) {
      ok_ = false;
      return {};
    }
    const auto field = rest_.first(length);
    rest_ = rest_.subspan(length);
    return field;
  }

  /// The bytes as characters: any values, not necessarily UTF-8.
  std::string_view take_text(std::size_t length) noexcept {
    const std::span<const std::byte> field = take_bytes(length);
    return {reinterpret_cast<const char*>(field.data()), field.size()};
  }

  bool ok() const noexcept { return ok_; }
  bool at_end() const noexcept { return ok_ && rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
  bool ok_ = true;
};

}  // namespace weir::nbd
