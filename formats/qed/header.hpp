// The QED header (images.md section 4): parsing hostile bytes, laying out new ones. Pure. Little-endian.
//
//   0 magic "QED\0" · 4 cluster size · 8 table size in clusters · 12 header size in clusters · 16 features ·
//   24 compatible features · 32 autoclear features · 40 L1 table · 48 image size · 56 backing name offset ·
//   60 backing name length
//
// All of it lies in one sector, so that rewriting it is one atomic write.
#pragma once

#include "engine/base/error.hpp"
#include "engine/block/image.hpp"
#include "formats/qed/layout.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace weir::qed {

inline constexpr std::uint32_t magic = 0x0044'4551;  ///< "QED\0"
inline constexpr std::uint64_t header_fields_bytes = 64;
inline constexpr std::uint64_t longest_backing_name = 1023;

namespace feature {
inline constexpr std::uint64_t backing_file = 1U << 0;
inline constexpr std::uint64_t need_check = 1U << 1;
inline constexpr std::uint64_t backing_is_raw = 1U << 2;  ///< do not probe the backing image's format
inline constexpr std::uint64_t known = backing_file | need_check | backing_is_raw;
}  // namespace feature

struct header {
  geometry shape;
  std::uint64_t header_clusters = 1;
  std::uint64_t features = 0;
  std::uint64_t compatible_features = 0;  ///< unknown to us; kept
  std::uint64_t autoclear_features = 0;   ///< unknown to us; a writer clears them
  std::uint64_t l1_offset = 0;
  std::uint64_t image_bytes = 0;
  byte_range backing_name;  ///< where the name lies; only where features say so

  std::uint64_t header_bytes() const noexcept { return header_clusters * shape.cluster_bytes; }
  bool has(std::uint64_t bit) const noexcept { return (features & bit) != 0; }
  friend bool operator==(const header&, const header&) = default;
};

using header_fields = std::array<std::byte, header_fields_bytes>;

/// True if the first bytes of a file carry QED's magic.
bool has_magic(std::span<const std::byte> head) noexcept;

/// Parses and checks everything that can be checked without reading further. `head` is the beginning of the
/// file: 64 bytes, or all of a shorter file. Failures name `location`, the field and its value.
outcome<header> parse_header(std::span<const std::byte> head, std::uint64_t file_bytes,
                             std::string_view location);

header_fields encode_header(const header& from) noexcept;

/// Largest image that the tables can map, in bytes.
std::uint64_t largest_image_bytes(geometry shape) noexcept;

/// Nothing if the cluster or table size is one that QED has; otherwise what is wrong with it.
std::optional<std::string> complaint_about(geometry shape);

/// The feature bits about the backing image for `reference`, the others as in `features`.
std::uint64_t features_with_backing(std::uint64_t features,
                                    const std::optional<backing_reference>& reference) noexcept;

/// The backing image of a header with `name` at header::backing_name.
backing_reference describe_backing(const header& from, std::string name);

/// True if the name can be recorded: 1…1023 bytes without NUL.
bool is_recordable(std::string_view backing_name) noexcept;

}  // namespace weir::qed
