// Loads and stores of fixed-width integers in the byte order of a format or protocol.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstring>

namespace weir {

/// Value of the integer stored big-endian at `from`, which holds at least sizeof(T) bytes, any alignment.
template <std::unsigned_integral T>
T load_big(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  if constexpr (std::endian::native == std::endian::little && sizeof(T) > 1) value = std::byteswap(value);
  return value;
}
template <std::unsigned_integral T>
T load_little(const std::byte* from) noexcept {
  T value;
  std::memcpy(&value, from, sizeof value);
  if constexpr (std::endian::native == std::endian::big && sizeof(T) > 1) value = std::byteswap(value);
  return value;
}
template <std::unsigned_integral T>
void store_big(std::byte* to, T value) noexcept {
  if constexpr (std::endian::native == std::endian::little && sizeof(T) > 1) value = std::byteswap(value);
  std::memcpy(to, &value, sizeof value);
}
template <std::unsigned_integral T>
void store_little(std::byte* to, T value) noexcept {
  if constexpr (std::endian::native == std::endian::big && sizeof(T) > 1) value = std::byteswap(value);
  std::memcpy(to, &value, sizeof value);
}

}  // namespace weir
