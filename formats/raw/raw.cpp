#include "formats/raw/raw.hpp"

#include "formats/raw/raw_image.hpp"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

namespace weir {
namespace {

// The longest file there can be, in whole sectors.
constexpr std::uint64_t largest_size =
    align_down(std::numeric_limits<std::int64_t>::max(), raw_image::sector_bytes);

outcome<void> check_file(const storage& from, const image_open_options& options) {
  if (from.size() > largest_size) {
    return make_failure(errc::unsupported_feature, from.location(),
                        "its " + std::to_string(from.size()) + " bytes are more than a disk can have");
  }
  if (options.writable && !from.capabilities().writable) {
    return make_failure(errc::read_only, from.location());
  }
  return outcome<void>{};
}

task<outcome<std::unique_ptr<image>>> open_raw(std::unique_ptr<storage> from, image_open_options options) {
  const outcome<void> usable = check_file(*from, options);
  if (!usable) {
    const result<void> ignored = co_await from->close();
    static_cast<void>(ignored);
    co_return usable.error();
  }
  std::unique_ptr<image> opened = std::make_unique<raw_image>(std::move(from), options.writable);
  co_return opened;
}

enum class preallocation { off, falloc, full };

outcome<preallocation> parse_options(const image_create_options& options, const storage& into) {
  preallocation chosen = preallocation::off;
  for (const auto& [key, value] : options.options) {
    if (key != "preallocation") {
      return make_failure(errc::unsupported_feature, into.location(),
                          "raw images have no option '" + key + "'");
    }
    if (value == "off") {
      chosen = preallocation::off;
    } else if (value == "falloc") {
      chosen = preallocation::falloc;
    } else if (value == "full") {
      chosen = preallocation::full;
    } else {
      return make_failure(errc::unsupported_feature, into.location(),
                          "preallocation is off, falloc or full, not '" + value + "'");
    }
  }
  if (options.backing) {
    return make_failure(errc::unsupported_feature, into.location(), "a raw image has no backing image");
  }
  if (options.virtual_size > largest_size) {
    return make_failure(errc::unsupported_feature, into.location(),
                        "a raw image has at most " + std::to_string(largest_size) + " bytes");
  }
  return chosen;
}

task<result<void>> write_zeros(storage& into, std::uint64_t size) {
  const std::vector<std::byte> zeros(std::min(size, MiB));
  for (std::uint64_t offset = 0; offset < size; offset += zeros.size()) {
    const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(zeros.size(), size - offset));
    const result<void> wrote = co_await into.write(offset, std::span(zeros).first(length));
    if (!wrote) co_return wrote.error();
  }
  co_return result<void>{};
}

task<result<void>> lay_out(storage& into, std::uint64_t size, preallocation chosen) {
  const result<void> sized = co_await into.truncate(size);
  const error_code fixed_length = errc::not_supported;
  // A device keeps its length: it only has to be long enough.
  if (!sized && (sized.error() != fixed_length || into.size() < size)) co_return sized.error();
  if (chosen == preallocation::full) co_return co_await write_zeros(into, size);
  if (chosen == preallocation::off || size == 0) co_return result<void>{};
  const result<void> reserved = co_await into.zero({0, size}, zero_mode::keep_allocated);
  if (!reserved && reserved.error() == fixed_length) co_return co_await write_zeros(into, size);
  co_return reserved;
}

task<outcome<void>> create_raw(storage& into, image_create_options options) {
  const outcome<preallocation> chosen = parse_options(options, into);
  if (!chosen) co_return chosen.error();
  const std::uint64_t size = align_up(options.virtual_size, raw_image::sector_bytes);
  result<void> done = co_await lay_out(into, size, *chosen);
  if (done) done = co_await into.flush();
  if (!done) co_return make_failure(done.error(), into.location());
  co_return outcome<void>{};
}

outcome<size_estimate> measure_raw(const image_create_options& options) {
  return size_estimate{.content_bytes = align_up(options.virtual_size, raw_image::sector_bytes),
                       .grain = raw_image::sector_bytes,
                       .is_sparse = false};
}

}  // namespace

format_driver raw_driver() {
  return {.name = "raw", .open = open_raw, .create = create_raw, .measure = measure_raw};
}

}  // namespace weir
