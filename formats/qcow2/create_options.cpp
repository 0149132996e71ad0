#include "formats/qcow2/create_options.hpp"

#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>

namespace weir::qcow2 {
namespace {

failure refuse(std::string_view key, std::string_view value, std::string_view why) {
  std::string clause("option ");
  clause.append(key).append("=").append(value).append(": ").append(why);
  return failure{errc::unsupported_feature, clause};
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{}) return std::nullopt;
  const std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (suffix.empty()) return value;
  if (suffix == "k" || suffix == "K") return checked_multiply(value, KiB);
  if (suffix == "m" || suffix == "M") return checked_multiply(value, MiB);
  return std::nullopt;
}

std::optional<bool> parse_switch(std::string_view text) {
  if (text == "on" || text == "true" || text == "yes") return true;
  if (text == "off" || text == "false" || text == "no") return false;
  return std::nullopt;
}

using setter = outcome<void> (*)(header& into, std::string_view key, std::string_view value);

outcome<void> set_compat(header& into, std::string_view key, std::string_view value) {
  if (value == "0.10" || value == "v2") {
    into.shape.version = 2;
  } else if (value != "1.1" && value != "v3") {
    return refuse(key, value, "must be 0.10 or 1.1");
  }
  return outcome<void>{};
}

outcome<void> set_cluster_size(header& into, std::string_view key, std::string_view value) {
  const auto size = parse_number(value);
  if (!size || !std::has_single_bit(*size) || *size < 512 || *size > 2 * MiB) {
    return refuse(key, value, "must be a power of two from 512 to 2M");
  }
  into.shape.cluster_bits = static_cast<unsigned>(std::countr_zero(*size));
  return outcome<void>{};
}

outcome<void> set_refcount_bits(header& into, std::string_view key, std::string_view value) {
  const auto bits = parse_number(value);
  if (!bits || !std::has_single_bit(*bits) || *bits > 64) {
    return refuse(key, value, "must be a power of two from 1 to 64");
  }
  into.shape.refcount_order = static_cast<unsigned>(std::countr_zero(*bits));
  return outcome<void>{};
}

outcome<void> set_lazy_refcounts(header& into, std::string_view key, std::string_view value) {
  const auto on = parse_switch(value);
  if (!on) return refuse(key, value, "must be on or off");
  into.compatible = *on ? lazy_refcounts_bit : 0;
  return outcome<void>{};
}

outcome<void> set_compression_type(header& into, std::string_view key, std::string_view value) {
  if (value == "zstd") {
    into.compression = compression::zstd;
    into.incompatible |= incompatible_bit::compression_type;
  } else if (value != "zlib") {
    return refuse(key, value, "must be zlib or zstd");
  }
  return outcome<void>{};
}

outcome<void> set_extended_l2(header& into, std::string_view key, std::string_view value) {
  const auto on = parse_switch(value);
  if (!on) return refuse(key, value, "must be on or off");
  into.shape.extended_l2 = *on;
  return outcome<void>{};
}

std::optional<preallocation> parse_preallocation(std::string_view text) {
  if (text == "off") return preallocation::off;
  if (text == "metadata") return preallocation::metadata;
  if (text == "falloc") return preallocation::falloc;
  if (text == "full") return preallocation::full;
  return std::nullopt;
}

outcome<void> check_preallocation(header&, std::string_view key, std::string_view value) {
  if (!parse_preallocation(value)) return refuse(key, value, "must be off, metadata, falloc or full");
  return outcome<void>{};
}

outcome<void> set_data_file(header& into, std::string_view key, std::string_view value) {
  const bool plain = value.substr(0, value.find('/')).find(':') == std::string_view::npos;
  if (value.empty() || value.size() > longest_backing_name || !plain) {
    return refuse(key, value, "must be the name of a plain file");
  }
  into.data_file = value;
  into.shape.external_data = true;
  into.incompatible |= incompatible_bit::data_file;
  return outcome<void>{};
}

outcome<void> set_data_file_raw(header& into, std::string_view key, std::string_view value) {
  const auto on = parse_switch(value);
  if (!on) return refuse(key, value, "must be on or off");
  if (*on) into.autoclear |= autoclear_bit::raw_data_file;
  return outcome<void>{};
}

struct known_option {
  std::string_view key;
  setter set;
};

constexpr std::array<known_option, 9> known_options{{{"compat", &set_compat},
                                                     {"cluster_size", &set_cluster_size},
                                                     {"refcount_bits", &set_refcount_bits},
                                                     {"lazy_refcounts", &set_lazy_refcounts},
                                                     {"compression_type", &set_compression_type},
                                                     {"preallocation", &check_preallocation},
                                                     {"data_file", &set_data_file},
                                                     {"data_file_raw", &set_data_file_raw},
                                                     {"extended_l2", &set_extended_l2}}};

outcome<void> set_option(header& into, std::string_view key, std::string_view value) {
  for (const known_option& each : known_options) {
    if (each.key == key) return each.set(into, key, value);
  }
  return refuse(key, value, "is not an option of qcow2 images");
}

outcome<void> check_version(const header& made) {
  if (made.shape.version >= 3) return outcome<void>{};
  if (made.shape.refcount_order != 4) return refuse("refcount_bits", "", "needs compat=1.1 unless it is 16");
  if (made.compatible != 0) return refuse("lazy_refcounts", "on", "needs compat=1.1");
  if (made.shape.external_data) return refuse("data_file", made.data_file, "needs compat=1.1");
  if (made.incompatible != 0) return refuse("compression_type", "zstd", "needs compat=1.1");
  if (made.shape.extended_l2) return refuse("extended_l2", "on", "needs compat=1.1");
  return outcome<void>{};
}

/// qemu-img's rules for options that meet each other or a backing image.
outcome<void> check_combination(const header& made, const image_create_options& options) {
  if (made.autoclear != 0 && !made.shape.external_data) {
    return refuse("data_file_raw", "on", "needs data_file");
  }
  if (made.autoclear != 0 && options.backing) {
    return refuse("data_file_raw", "on", "excludes a backing image");
  }
  const auto wanted = options.options.find("preallocation");
  if (wanted != options.options.end() && wanted->second != "off" && options.backing &&
      !made.shape.extended_l2) {
    return refuse("preallocation", wanted->second, "together with a backing image needs extended_l2=on");
  }
  return outcome<void>{};
}

}  // namespace

preallocation preallocation_of(const image_create_options& options) {
  const auto found = options.options.find("preallocation");
  const auto chosen = found == options.options.end()
                          ? preallocation::off
                          : parse_preallocation(found->second).value_or(preallocation::off);
  // Without entries for all of it, what somebody else writes to a raw data file would not be seen.
  const auto raw = options.options.find("data_file_raw");
  const bool is_raw = raw != options.options.end() && parse_switch(raw->second).value_or(false);
  return is_raw && chosen == preallocation::off ? preallocation::metadata : chosen;
}

outcome<header> parse_create_options(const image_create_options& options) {
  header made;
  for (const auto& [key, value] : options.options) {
    const outcome<void> set = set_option(made, key, value);
    if (!set) return set.error();
  }
  outcome<void> consistent = check_version(made);
  if (consistent) consistent = check_combination(made, options);
  if (!consistent) return consistent.error();
  if (made.shape.extended_l2 && made.shape.cluster_bits < smallest_extended_cluster_bits) {
    return refuse("extended_l2", "on", "needs a cluster_size of at least 16K");
  }
  if (made.shape.extended_l2) made.incompatible |= incompatible_bit::extended_l2;
  const auto size = checked_align_up(options.virtual_size, sector_bytes);
  const std::uint64_t highest = (largest_l1_bytes / entry_bytes) * made.shape.table_span();
  if (!size || *size > std::min(highest, (std::uint64_t{1} << 63) - sector_bytes)) {
    return failure{errc::unsupported_feature, "the virtual size is above " + std::to_string(highest) +
                                                  " bytes, the most that this cluster_size can map"};
  }
  made.virtual_size = *size;
  made.backing = options.backing;
  return made;
}

}  // namespace weir::qcow2
