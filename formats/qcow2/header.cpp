#include "formats/qcow2/header.hpp"

#include "engine/base/endian.hpp"

#include <algorithm>
#include <array>
#include <charconv>

namespace weir::qcow2 {
namespace {

constexpr std::uint64_t known_incompatible =
    incompatible_bit::dirty | incompatible_bit::corrupt | incompatible_bit::data_file |
    incompatible_bit::compression_type | incompatible_bit::extended_l2;
constexpr std::uint64_t smallest_v3_header_length = 104;
constexpr std::uint64_t compression_type_at = 104;
constexpr std::uint64_t feature_entry_bytes = 48;
constexpr std::uint64_t largest_offset = std::uint64_t{1} << 56;
constexpr std::uint64_t longest_format_name = 15;
constexpr std::uint32_t most_snapshots = 65536;
constexpr std::uint64_t smallest_snapshot_bytes = 40;

/// One parse: the bytes, and how to refuse them.
class parser {
 public:
  parser(std::span<const std::byte> cluster, std::uint64_t file_size, std::string_view location)
      : bytes_(cluster), file_size_(file_size), location_(location) {}

  outcome<header> run();

 private:
  using check = outcome<void> (parser::*)();

  std::uint32_t u32(std::uint64_t at) const { return load_big<std::uint32_t>(bytes_.data() + at); }
  std::uint64_t u64(std::uint64_t at) const { return load_big<std::uint64_t>(bytes_.data() + at); }
  std::string text(byte_range range) const {
    return {reinterpret_cast<const char*>(bytes_.data()) + range.offset,
            static_cast<std::size_t>(range.length)};
  }
  failure corrupt(std::string_view why) const { return make_failure(errc::corrupt_image, location_, why); }
  failure unsupported(std::string_view why) const {
    return make_failure(errc::unsupported_feature, location_, why);
  }
  failure corrupt_value(std::string_view what, std::uint64_t value, std::string_view why) const;

  outcome<void> read_fixed();
  outcome<void> read_extensions();
  outcome<void> check_features();
  outcome<void> check_encryption();
  outcome<void> check_compression();
  outcome<void> check_size();
  outcome<void> check_tables();
  outcome<void> check_snapshots();
  outcome<void> read_backing();
  outcome<void> read_data_file();
  outcome<void> check_table(std::string_view what, std::uint64_t offset, std::uint64_t length) const;
  std::string feature_name(unsigned bit) const;

  std::span<const std::byte> bytes_;
  std::uint64_t file_size_;
  std::string_view location_;
  header header_;
};

failure parser::corrupt_value(std::string_view what, std::uint64_t value, std::string_view why) const {
  std::string clause(what);
  clause.append(" ").append(hexadecimal(value)).append(" ").append(why);
  return corrupt(clause);
}

outcome<void> parser::read_fixed() {
  header_.shape.version = u32(4);
  header_.backing_offset = u64(8);
  header_.backing_length = u32(16);
  header_.shape.cluster_bits = u32(20);
  header_.virtual_size = u64(24);
  header_.crypt_method = u32(32);
  header_.l1_count = u32(36);
  header_.l1_offset = u64(40);
  header_.refcount_table_offset = u64(48);
  header_.refcount_table_clusters = u32(56);
  header_.snapshot_count = u32(60);
  header_.snapshots_offset = u64(64);
  if (header_.shape.version == 2) return outcome<void>{};
  if (file_size_ < smallest_v3_header_length) return corrupt("the file ends inside the header");
  header_.incompatible = u64(72);
  header_.compatible = u64(80);
  header_.autoclear = u64(88);
  header_.header_length = u32(100);
  const std::uint32_t order = u32(96);
  if (order > 6) return corrupt_value("refcount_order", order, "is above 6");
  header_.shape.refcount_order = order;
  const std::uint32_t length = header_.header_length;
  if (length < smallest_v3_header_length || length > bytes_.size() || length % 8 != 0) {
    return corrupt_value("header_length", length, "is not a multiple of 8 between 104 and the cluster size");
  }
  return outcome<void>{};
}

outcome<void> parser::read_extensions() {
  std::uint64_t at = header_.header_length;
  const bool name_behind = header_.backing_offset >= at && header_.backing_offset < bytes_.size();
  const std::uint64_t limit = name_behind ? header_.backing_offset : bytes_.size();
  header_.extensions_end = at;
  while (fits(at, 8, limit)) {
    const std::uint32_t type = u32(at);
    const byte_range data{at + 8, u32(at + 4)};
    if (type == end_extension) {
      header_.extensions_end = at + 8;
      header_.has_end_marker = true;
      break;
    }
    if (!fits(data.offset, data.length, limit)) {
      return corrupt_value("header extension", type, "does not end inside the header cluster");
    }
    header_.extensions.push_back({type, data});
    at = header_.extensions.back().end();
    header_.extensions_end = std::min<std::uint64_t>(at, bytes_.size());
  }
  return outcome<void>{};
}

std::string parser::feature_name(unsigned bit) const {
  if (const extension* names = header_.find(feature_names_extension)) {
    for (std::uint64_t at = 0; at + feature_entry_bytes <= names->data.length; at += feature_entry_bytes) {
      const std::uint64_t entry = names->data.offset + at;
      if (bytes_[entry] != std::byte{0} || std::to_integer<unsigned>(bytes_[entry + 1]) != bit) continue;
      std::string name = text({entry + 2, feature_entry_bytes - 2});
      name.resize(std::min(name.size(), name.find('\0')));
      std::ranges::replace_if(name, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
      return "'" + name + "'";
    }
  }
  return "without a name";
}

outcome<void> parser::check_features() {
  const std::uint64_t unknown = header_.incompatible & ~known_incompatible;
  if (unknown != 0) {
    const auto bit = static_cast<unsigned>(std::countr_zero(unknown));
    return unsupported("unknown incompatible feature " + feature_name(bit) + " (bit " + std::to_string(bit) +
                       ")");
  }
  header_.shape.extended_l2 = header_.has(incompatible_bit::extended_l2);
  if (header_.shape.extended_l2 && header_.shape.cluster_bits < smallest_extended_cluster_bits) {
    return corrupt_value("cluster_bits", header_.shape.cluster_bits,
                         "is below 14, too small for subclusters");
  }
  header_.shape.external_data = header_.has(incompatible_bit::data_file);
  return outcome<void>{};
}

outcome<void> parser::check_encryption() {
  switch (header_.crypt_method) {
    case 0:
    case aes_encryption:
      return outcome<void>{};
    case 2:
      return unsupported("encrypted images (LUKS) are not supported");
    default:
      return corrupt_value("crypt_method", header_.crypt_method, "is unknown");
  }
}

outcome<void> parser::check_compression() {
  const bool has_field = header_.shape.version >= 3 && header_.header_length > compression_type_at;
  const unsigned type = has_field ? std::to_integer<unsigned>(bytes_[compression_type_at]) : 0;
  if (type > 1) return unsupported("unknown compression type " + std::to_string(type));
  if ((type != 0) != header_.has(incompatible_bit::compression_type)) {
    return corrupt("the compression type and its feature bit disagree");
  }
  header_.compression = static_cast<compression>(type);
  return outcome<void>{};
}

outcome<void> parser::check_size() {
  constexpr std::uint64_t highest = std::uint64_t{1} << 63;
  if (header_.virtual_size >= highest) {
    return corrupt_value("virtual size", header_.virtual_size, "is above the largest file offset");
  }
  const std::uint64_t l1_bytes = header_.l1_count * entry_bytes;
  if (l1_bytes > largest_l1_bytes)
    return corrupt_value("l1_size", header_.l1_count, "makes the L1 table too big");
  const std::uint64_t span = header_.shape.table_span();
  const std::uint64_t needed = header_.virtual_size / span + (header_.virtual_size % span != 0 ? 1 : 0);
  if (header_.l1_count < needed) {
    return corrupt_value("l1_size", header_.l1_count, "is too small for the virtual size");
  }
  return outcome<void>{};
}

outcome<void> parser::check_table(std::string_view what, std::uint64_t offset, std::uint64_t length) const {
  if (offset >= largest_offset || !is_aligned(offset, header_.shape.cluster_size())) {
    return corrupt_value(what, offset, "is not a cluster boundary below 64 PiB");
  }
  if (length == 0) return outcome<void>{};
  if (offset == 0) return corrupt_value(what, offset, "overlaps the header");
  if (!fits(offset, length, file_size_)) return corrupt_value(what, offset, "ends past the end of the file");
  return outcome<void>{};
}

outcome<void> parser::check_tables() {
  const std::uint64_t l1_bytes = header_.l1_count * entry_bytes;
  auto sound = check_table("L1 table at", header_.l1_offset, l1_bytes);
  if (!sound) return sound;
  const std::uint64_t cluster_size = header_.shape.cluster_size();
  const auto table_bytes = checked_multiply(header_.refcount_table_clusters, cluster_size);
  if (!table_bytes || *table_bytes > largest_refcount_table_bytes) {
    return corrupt_value("refcount_table_clusters", header_.refcount_table_clusters,
                         "makes the refcount table too big");
  }
  // The file may end inside the table's last cluster, so only the beginning must lie in the file.
  sound = check_table("refcount table at", header_.refcount_table_offset,
                      std::min<std::uint64_t>(*table_bytes, 1));
  if (!sound) return sound;
  const byte_range l1{header_.l1_offset, l1_bytes};
  const byte_range counts{header_.refcount_table_offset, *table_bytes};
  if (l1.overlaps(counts)) return corrupt_value("L1 table at", l1.offset, "overlaps the refcount table");
  return outcome<void>{};
}

outcome<void> parser::check_snapshots() {
  if (header_.snapshot_count == 0) return outcome<void>{};
  if (header_.snapshot_count > most_snapshots) {
    return corrupt_value("nb_snapshots", header_.snapshot_count, "is above 65536");
  }
  return check_table("snapshot table at", header_.snapshots_offset,
                     header_.snapshot_count * smallest_snapshot_bytes);
}

outcome<void> parser::read_backing() {
  if (header_.backing_offset == 0) return outcome<void>{};
  const byte_range name{header_.backing_offset, header_.backing_length};
  if (name.length == 0 || name.length > longest_backing_name) {
    return corrupt_value("backing file name length", name.length, "is not between 1 and 1023");
  }
  const std::uint64_t limit = std::min<std::uint64_t>(bytes_.size(), file_size_);
  if (name.offset < header_.header_length || !fits(name.offset, name.length, limit)) {
    return corrupt_value("backing file name at", name.offset, "lies outside the header cluster");
  }
  backing_reference reference{.name = text(name), .format = {}, .may_probe = false};
  if (const extension* format = header_.find(backing_format_extension)) {
    if (format->data.length > longest_format_name) {
      return corrupt_value("backing format name length", format->data.length, "is above 15");
    }
    reference.format = text(format->data);
  }
  if (reference.name.contains('\0')) return corrupt("the backing file name contains a NUL");
  if (reference.format.contains('\0')) return corrupt("the backing format contains a NUL");
  header_.backing = std::move(reference);
  return outcome<void>{};
}

outcome<void> parser::read_data_file() {
  if (!header_.shape.external_data) return outcome<void>{};
  if (const extension* name = header_.find(data_file_extension)) header_.data_file = text(name->data);
  if (header_.data_file.contains('\0')) return corrupt("the data file's name contains a NUL");
  if (header_.snapshot_count > 0) return corrupt("an image with an external data file has no snapshots");
  if (header_.has_raw_data_file() && header_.backing) {
    return corrupt("an image whose data file is raw has no backing image");
  }
  return outcome<void>{};
}

outcome<header> parser::run() {
  constexpr std::array<check, 10> checks{&parser::read_fixed,        &parser::read_extensions,
                                         &parser::check_features,    &parser::check_encryption,
                                         &parser::check_compression, &parser::check_size,
                                         &parser::check_tables,      &parser::check_snapshots,
                                         &parser::read_backing,      &parser::read_data_file};
  for (const check each : checks) {
    const outcome<void> sound = (this->*each)();
    if (!sound) return sound.error();
  }
  return std::move(header_);
}

}  // namespace

const extension* header::find(std::uint32_t type) const noexcept {
  const auto found = std::ranges::find(extensions, type, &extension::type);
  return found == extensions.end() ? nullptr : &*found;
}

outcome<std::uint64_t> parse_cluster_size(std::span<const std::byte> first, std::string_view location) {
  if (first.size() < first_look_bytes || load_big<std::uint32_t>(first.data()) != magic) {
    return make_failure(errc::not_this_format, location, "no qcow2 header");
  }
  const auto version = load_big<std::uint32_t>(first.data() + 4);
  const auto bits = load_big<std::uint32_t>(first.data() + 20);
  if (version < 2 || version > 3) {
    return make_failure(errc::unsupported_feature, location, "qcow version " + std::to_string(version));
  }
  if (bits < 9 || bits > 21) {
    return make_failure(errc::corrupt_image, location,
                        "cluster_bits " + std::to_string(bits) + " is not 9 to 21");
  }
  return std::uint64_t{1} << bits;
}

outcome<header> parse_header(std::span<const std::byte> cluster, std::uint64_t file_size,
                             std::string_view location) {
  const auto size =
      parse_cluster_size(cluster.first(std::min<std::size_t>(cluster.size(), first_look_bytes)), location);
  if (!size) return size.error();
  if (file_size < v2_header_length || cluster.size() < *size) {
    return make_failure(errc::corrupt_image, location, "the file ends inside the header");
  }
  return parser(cluster.first(static_cast<std::size_t>(*size)), file_size, location).run();
}

std::string hexadecimal(std::uint64_t value) {
  std::array<char, 16> digits{};
  const auto end = std::to_chars(digits.data(), digits.data() + digits.size(), value, 16).ptr;
  return "0x" + std::string(digits.data(), end);
}

}  // namespace weir::qcow2
