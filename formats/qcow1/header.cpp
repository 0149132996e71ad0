#include "formats/qcow1/header.hpp"

#include "engine/base/endian.hpp"

#include <string>

namespace weir::qcow1 {
namespace {

constexpr std::uint32_t magic = 0x5146'49fb;
constexpr std::uint32_t aes = 1;
constexpr std::uint64_t sector_bytes = 512;
constexpr std::uint64_t compressed_flag = std::uint64_t{1} << 63;
/// As for qcow2: no table larger than 32 MiB is believed.
constexpr std::uint64_t largest_l1_bytes = 32 * MiB;

std::optional<std::string> complaint_about_shape(const std::byte* head) {
  const auto cluster_bits = std::to_integer<unsigned>(head[32]);
  if (cluster_bits < 9 || cluster_bits > 16) {
    return "cluster_bits " + std::to_string(cluster_bits) + " is not 9 to 16";
  }
  const auto l2_bits = std::to_integer<unsigned>(head[33]);
  if (l2_bits < 6 || l2_bits > 13) return "l2_bits " + std::to_string(l2_bits) + " is not 6 to 13";
  return std::nullopt;
}

std::optional<std::string> complaint_about_size(const header& of, std::uint64_t size,
                                                std::uint64_t file_size) {
  const std::string named = "size " + std::to_string(size);
  if (size < sector_bytes) return named + " is less than a sector";
  if (size >= std::uint64_t{1} << 63) return named + " is above the largest file offset";
  const std::uint64_t length = of.l1_bytes();
  if (length > largest_l1_bytes) return named + " makes the L1 table too big";
  if (of.l1_offset < header_bytes)
    return "the L1 table at " + std::to_string(of.l1_offset) + " overlaps the header";
  if (!fits(of.l1_offset, length, file_size)) {
    return "the L1 table at " + std::to_string(of.l1_offset) + " ends past the end of the file";
  }
  return std::nullopt;
}

std::optional<std::string> complaint_about_backing(const header& of, std::uint64_t file_size) {
  const byte_range name = of.backing_name;
  if (name.offset == 0) return std::nullopt;
  if (name.length == 0 || name.length > longest_backing_name) {
    return "backing file name of " + std::to_string(name.length) + " bytes (1 to 1023 are valid)";
  }
  if (name.offset < header_bytes || !fits(name.offset, name.length, file_size)) {
    return "backing file name at " + std::to_string(name.offset) + " lies outside the file";
  }
  return std::nullopt;
}

}  // namespace

bool has_magic(std::span<const std::byte> head) noexcept {
  return head.size() >= 8 && load_big<std::uint32_t>(head.data()) == magic &&
         load_big<std::uint32_t>(head.data() + 4) == 1;
}

outcome<header> parse_header(std::span<const std::byte> head, std::uint64_t file_size,
                             std::string_view location) {
  if (!has_magic(head)) return make_failure(errc::not_this_format, location, "no header of qcow version 1");
  if (head.size() < header_bytes || file_size < header_bytes) {
    return make_failure(errc::corrupt_image, location, "the file ends inside the header");
  }
  const std::byte* at = head.data();
  std::optional<std::string> complaint = complaint_about_shape(at);
  if (complaint) return make_failure(errc::corrupt_image, location, *complaint);
  const auto size = load_big<std::uint64_t>(at + 24);
  header fields;
  fields.cluster_bits = std::to_integer<unsigned>(at[32]);
  fields.l2_bits = std::to_integer<unsigned>(at[33]);
  fields.virtual_size = align_down(size, sector_bytes);
  fields.l1_offset = load_big<std::uint64_t>(at + 40);
  fields.backing_name = {load_big<std::uint64_t>(at + 8), load_big<std::uint32_t>(at + 16)};
  const auto method = load_big<std::uint32_t>(at + 36);
  if (method > aes) {
    return make_failure(errc::unsupported_feature, location,
                        "crypt_method " + std::to_string(method) + " is unknown");
  }
  fields.is_encrypted = method == aes;
  complaint = complaint_about_size(fields, size, file_size);
  if (!complaint) complaint = complaint_about_backing(fields, file_size);
  if (complaint) return make_failure(errc::corrupt_image, location, *complaint);
  if (fields.backing_name.offset == 0) fields.backing_name = {};
  return fields;
}

std::optional<cluster_place> decode_entry(std::uint64_t entry, const header& of,
                                          std::uint64_t file_size) noexcept {
  cluster_place place;
  if (entry == 0) return place;
  if ((entry & compressed_flag) != 0) {
    const unsigned offset_bits = 63 - of.cluster_bits;
    place.kind = cluster_place::kind_type::compressed;
    place.host.offset = entry & ((std::uint64_t{1} << offset_bits) - 1);
    place.host.length = entry >> offset_bits & (of.cluster_bytes() - 1);
  } else {
    place.kind = cluster_place::kind_type::data;
    place.host = {entry, of.cluster_bytes()};
  }
  const byte_range host = place.host;
  // libqcow reads beyond its buffer where the last cluster is cut off.
  if (host.empty() || host.offset < header_bytes || !fits(host.offset, host.length, file_size))
    return std::nullopt;
  return place;
}

}  // namespace weir::qcow1
