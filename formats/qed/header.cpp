#include "formats/qed/header.hpp"

#include "engine/base/endian.hpp"

#include <bit>
#include <limits>
#include <utility>

namespace weir::qed {
namespace {

constexpr std::uint64_t highest_offset = std::numeric_limits<std::int64_t>::max();

header decode_fields(const std::byte* from) noexcept {
  header fields;
  fields.shape.cluster_bytes = load_little<std::uint32_t>(from + 4);
  fields.shape.table_clusters = load_little<std::uint32_t>(from + 8);
  fields.header_clusters = load_little<std::uint32_t>(from + 12);
  fields.features = load_little<std::uint64_t>(from + 16);
  fields.compatible_features = load_little<std::uint64_t>(from + 24);
  fields.autoclear_features = load_little<std::uint64_t>(from + 32);
  fields.l1_offset = load_little<std::uint64_t>(from + 40);
  fields.image_bytes = load_little<std::uint64_t>(from + 48);
  fields.backing_name.offset = load_little<std::uint32_t>(from + 56);
  fields.backing_name.length = load_little<std::uint32_t>(from + 60);
  return fields;
}

std::optional<std::string> complaint_about_features(std::uint64_t features) {
  const std::uint64_t unknown = features & ~feature::known;
  if (unknown == 0) return std::nullopt;
  return "uses unknown feature bit " + std::to_string(std::countr_zero(unknown)) +
         "; a newer program made it";
}

std::optional<std::string> complaint_about_l1(const header& fields, std::uint64_t file_bytes) {
  const std::uint64_t offset = fields.l1_offset;
  const std::string named = "L1 table at " + std::to_string(offset);
  if (!is_aligned(offset, fields.shape.cluster_bytes)) return named + " is not aligned to clusters";
  if (offset < fields.header_bytes()) return named + " lies in the header";
  const std::uint64_t last_cluster = fields.shape.table_bytes() - fields.shape.cluster_bytes;
  if (!fits(offset, last_cluster + 1, file_bytes)) return named + " ends past the end of the file";
  return std::nullopt;
}

std::optional<std::string> complaint_about_image_size(const header& fields) {
  const std::string named = "image size " + std::to_string(fields.image_bytes);
  if (!is_aligned(fields.image_bytes, sector_bytes)) return named + " is not a multiple of 512";
  const std::uint64_t largest = largest_image_bytes(fields.shape);
  if (fields.image_bytes > largest) {
    return named + " is more than its tables can map (" + std::to_string(largest) + ")";
  }
  return std::nullopt;
}

std::optional<std::string> complaint_about_backing(const header& fields, std::uint64_t file_bytes) {
  if (!fields.has(feature::backing_file)) return std::nullopt;
  const byte_range name = fields.backing_name;
  if (name.empty() || name.length > longest_backing_name) {
    return "backing file name of " + std::to_string(name.length) + " bytes (1 to 1023 are valid)";
  }
  if (name.offset < header_fields_bytes || !fits(name.offset, name.length, fields.header_bytes()) ||
      !fits(name.offset, name.length, file_bytes)) {
    return "backing file name at " + std::to_string(name.offset) + " is not inside the header";
  }
  return std::nullopt;
}

}  // namespace

bool has_magic(std::span<const std::byte> head) noexcept {
  return head.size() >= sizeof magic && load_little<std::uint32_t>(head.data()) == magic;
}

std::uint64_t largest_image_bytes(geometry shape) noexcept {
  const std::optional<std::uint64_t> all = checked_multiply(shape.table_span(), shape.table_entries());
  return align_down(std::min(all.value_or(highest_offset), highest_offset), sector_bytes);
}

std::optional<std::string> complaint_about(geometry shape) {
  if (!std::has_single_bit(shape.cluster_bytes) || shape.cluster_bytes < 4 * KiB ||
      shape.cluster_bytes > 64 * MiB) {
    return "cluster size " + std::to_string(shape.cluster_bytes) +
           " (powers of two from 4096 to 67108864 are valid)";
  }
  if (!std::has_single_bit(shape.table_clusters) || shape.table_clusters > 16) {
    return "table size " + std::to_string(shape.table_clusters) + " clusters (1, 2, 4, 8 and 16 are valid)";
  }
  return std::nullopt;
}

outcome<header> parse_header(std::span<const std::byte> head, std::uint64_t file_bytes,
                             std::string_view location) {
  if (!has_magic(head)) return make_failure(errc::not_this_format, location, "not a QED image");
  if (head.size() < header_fields_bytes || file_bytes < header_fields_bytes) {
    return make_failure(
        errc::corrupt_image, location,
        "the file ends inside the QED header, after " + std::to_string(file_bytes) + " bytes");
  }
  const header fields = decode_fields(head.data());
  if (const auto unknown = complaint_about_features(fields.features)) {
    return make_failure(errc::unsupported_feature, location, *unknown);
  }
  std::optional<std::string> complaint = complaint_about(fields.shape);
  if (!complaint && fields.header_clusters == 0) complaint = "header size 0";
  if (!complaint) complaint = complaint_about_l1(fields, file_bytes);
  if (!complaint) complaint = complaint_about_image_size(fields);
  if (!complaint) complaint = complaint_about_backing(fields, file_bytes);
  if (complaint) return make_failure(errc::corrupt_image, location, "bad QED header: " + *complaint);
  return fields;
}

header_fields encode_header(const header& from) noexcept {
  header_fields into{};
  const auto put32 = [&into](std::size_t at, std::uint64_t value) {
    store_little(into.data() + at, static_cast<std::uint32_t>(value));
  };
  put32(0, magic);
  put32(4, from.shape.cluster_bytes);
  put32(8, from.shape.table_clusters);
  put32(12, from.header_clusters);
  store_little(into.data() + 16, from.features);
  store_little(into.data() + 24, from.compatible_features);
  store_little(into.data() + 32, from.autoclear_features);
  store_little(into.data() + 40, from.l1_offset);
  store_little(into.data() + 48, from.image_bytes);
  put32(56, from.backing_name.offset);
  put32(60, from.backing_name.length);
  return into;
}

std::uint64_t features_with_backing(std::uint64_t features,
                                    const std::optional<backing_reference>& reference) noexcept {
  features &= ~(feature::backing_file | feature::backing_is_raw);
  if (!reference) return features;
  features |= feature::backing_file;
  if (reference->format == "raw") features |= feature::backing_is_raw;
  return features;
}

backing_reference describe_backing(const header& from, std::string name) {
  const bool raw = from.has(feature::backing_is_raw);
  return {.name = std::move(name), .format = raw ? "raw" : "", .may_probe = !raw};
}

bool is_recordable(std::string_view backing_name) noexcept {
  return !backing_name.empty() && backing_name.size() <= longest_backing_name &&
         backing_name.find('\0') == std::string_view::npos;
}

}  // namespace weir::qed
