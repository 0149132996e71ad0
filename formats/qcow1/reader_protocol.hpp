// What weir and its helper weir-qcow-reader say to each other over a stream socket, in the machine's own byte order.
//
//   weir → setup                                   helper → answer (status; on failure `length` bytes of text)
//   weir → request { offset, length }              helper → answer, then `length` bytes: data, or text on failure
//
// The helper ends when the socket does. Whatever it says is hostile: it parsed the image with a library.
#pragma once

#include <array>
#include <cstdint>

namespace weir::qcow1 {

/// Descriptors the helper is started with.
inline constexpr int reader_socket = 3;
inline constexpr int reader_image = 4;

inline constexpr std::uint32_t longest_request = 1U << 20;
inline constexpr std::uint32_t longest_text = 400;

struct reader_setup {
  std::uint64_t virtual_size = 0;   ///< what the library must agree with
  std::uint32_t cluster_bytes = 0;  ///< no read of the library is longer, or crosses a boundary
  std::uint32_t has_key = 0;
  std::array<std::uint8_t, 16> key{};
};

struct reader_request {
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
};

enum class reader_status : std::uint32_t { done = 0, failed = 1 };

struct reader_answer {
  reader_status status = reader_status::done;
  std::uint32_t length = 0;
};

}  // namespace weir::qcow1
