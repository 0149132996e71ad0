#include "engine/base/size_text.hpp"
#include "formats/qed/header.hpp"
#include "formats/qed/open.hpp"

#include <algorithm>
#include <span>
#include <utility>
#include <vector>

namespace weir::qed {
namespace {

outcome<geometry> parse_geometry(const image_create_options& options, const storage& into) {
  geometry shape;
  for (const auto& [key, value] : options.options) {
    const std::optional<std::uint64_t> number = parse_size(value);
    if (key != "cluster_size" && key != "table_size") {
      return make_failure(errc::unsupported_feature, into.location(),
                          "QED images have no option '" + key + "'");
    }
    if (!number) {
      std::string why = key;
      why.append(" '").append(value).append("' is not a size");
      return make_failure(errc::unsupported_feature, into.location(), why);
    }
    (key == "cluster_size" ? shape.cluster_bytes : shape.table_clusters) = *number;
  }
  if (const auto complaint = complaint_about(shape)) {
    return make_failure(errc::unsupported_feature, into.location(), *complaint);
  }
  return shape;
}

outcome<header> plan_header(const image_create_options& options, const storage& into) {
  const outcome<geometry> shape = parse_geometry(options, into);
  if (!shape) return shape.error();
  header fields;
  fields.shape = *shape;
  fields.l1_offset = fields.header_bytes();
  const std::uint64_t largest = largest_image_bytes(*shape);
  if (options.virtual_size > largest) {
    return make_failure(
        errc::unsupported_feature, into.location(),
        "with this cluster and table size a QED image has at most " + std::to_string(largest) + " bytes");
  }
  fields.image_bytes = align_up(options.virtual_size, sector_bytes);
  fields.features = features_with_backing(0, options.backing);
  if (!options.backing) return fields;
  if (!is_recordable(options.backing->name)) {
    return make_failure(errc::unsupported_feature, into.location(),
                        "a backing file name has 1 to 1023 bytes and no NUL");
  }
  fields.backing_name = {header_fields_bytes, options.backing->name.size()};
  return fields;
}

/// Cluster 0 up to the end of the name. Written last: until then the file is no QED image.
std::vector<std::byte> lay_out(const header& fields, const image_create_options& options) {
  const header_fields bytes = encode_header(fields);
  std::vector<std::byte> head(bytes.begin(), bytes.end());
  if (options.backing)
    std::ranges::copy(std::as_bytes(std::span(options.backing->name)), std::back_inserter(head));
  return head;
}

task<result<void>> write_image(storage& into, std::uint64_t file_bytes, std::vector<std::byte> head) {
  // The file is new, so the L1 table reads as zero once the file holds it.
  const std::vector<std::byte> last_sector(sector_bytes);
  const result<void> sized = co_await into.write(file_bytes - sector_bytes, last_sector);
  if (!sized) co_return sized.error();
  const result<void> settled = co_await into.flush();
  if (!settled) co_return settled.error();
  const result<void> headed = co_await into.write(0, head);
  if (!headed) co_return headed.error();
  co_return co_await into.flush();
}

}  // namespace

task<outcome<void>> create_image(storage& into, image_create_options options) {
  const outcome<header> fields = plan_header(options, into);
  if (!fields) co_return fields.error();
  if (into.size() != 0) {
    co_return make_failure(errc::unsupported_feature, into.location(),
                           "a QED image needs an empty file: it grows at its end");
  }
  const std::uint64_t file_bytes = fields->l1_offset + fields->shape.table_bytes();
  const result<void> written = co_await write_image(into, file_bytes, lay_out(*fields, options));
  if (!written) co_return make_failure(written.error(), into.location());
  co_return outcome<void>{};
}

}  // namespace weir::qed
