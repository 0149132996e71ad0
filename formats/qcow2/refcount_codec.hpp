// Reference counts of any width inside the bytes of a refcount block (images.md section 2). Pure.
#pragma once

#include "engine/base/endian.hpp"

#include <cstddef>
#include <cstdint>

namespace weir::qcow2 {

/// The count at `index`; `order` is the header's refcount_order (width = 2^order bits).
inline std::uint64_t load_refcount(const std::byte* block, std::uint64_t index, unsigned order) noexcept {
  switch (order) {
    case 3:
      return std::to_integer<std::uint64_t>(block[index]);
    case 4:
      return load_big<std::uint16_t>(block + index * 2);
    case 5:
      return load_big<std::uint32_t>(block + index * 4);
    case 6:
      return load_big<std::uint64_t>(block + index * 8);
    default: {
      // Widths below a byte are packed from the least significant bit.
      const unsigned width = 1U << order;
      const std::uint64_t per_byte = 8 >> order;
      const unsigned shift = static_cast<unsigned>(index % per_byte) * width;
      return (std::to_integer<unsigned>(block[index / per_byte]) >> shift) & ((1U << width) - 1);
    }
  }
}

/// Precondition: `value` fits the width.
inline void store_refcount(std::byte* block, std::uint64_t index, unsigned order,
                           std::uint64_t value) noexcept {
  switch (order) {
    case 3:
      block[index] = static_cast<std::byte>(value);
      break;
    case 4:
      store_big(block + index * 2, static_cast<std::uint16_t>(value));
      break;
    case 5:
      store_big(block + index * 4, static_cast<std::uint32_t>(value));
      break;
    case 6:
      store_big(block + index * 8, value);
      break;
    default: {
      const unsigned width = 1U << order;
      const std::uint64_t per_byte = 8 >> order;
      const unsigned shift = static_cast<unsigned>(index % per_byte) * width;
      const unsigned mask = ((1U << width) - 1) << shift;
      const unsigned old = std::to_integer<unsigned>(block[index / per_byte]);
      block[index / per_byte] =
          static_cast<std::byte>((old & ~mask) | (static_cast<unsigned>(value) << shift));
    }
  }
}

}  // namespace weir::qcow2
