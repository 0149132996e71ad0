#include "formats/qcow1/qcow1_image.hpp"

#include "engine/base/endian.hpp"
#include "formats/codec.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace weir::qcow1 {
namespace {

constexpr std::uint64_t slice_bytes = 4 * KiB;

}  // namespace

qcow1_image::qcow1_image(executor context, std::unique_ptr<storage> from, const header& parsed,
                         std::optional<backing_reference> backing, std::size_t cache_bytes)
    : file_(std::move(from)),
      head_(parsed),
      backing_(std::move(backing)),
      tables_(std::move(context), *file_, slice_bytes, cache_bytes) {}

std::vector<image_fact> qcow1_image::facts() const {
  std::vector<image_fact> made{{"l2-entries", head_.table_entries()}};
  if (head_.is_encrypted) made.push_back({"encryption", std::string("aes")});
  return made;
}

std::optional<std::uint64_t> qcow1_image::entry_at(std::uint64_t table, std::uint64_t index,
                                                   std::uint64_t& missing) {
  const std::uint64_t position = index * entry_bytes;
  const std::uint64_t slice = table + align_down(position, slice_bytes);
  const std::byte* bytes = tables_.find(slice);
  if (bytes == nullptr) {
    missing = slice;
    return std::nullopt;
  }
  return load_big<std::uint64_t>(bytes + position % slice_bytes);
}

qcow1_image::answer qcow1_image::look_up(byte_range range) {
  answer made;
  const std::uint64_t span = head_.table_span();
  const auto table = entry_at(head_.l1_offset, range.offset / span, made.missing_slice);
  if (!table) return made;
  if (*table == 0) {
    made.found = describe(0, range.offset, std::min(range.length, span - range.offset % span));
    return made;
  }
  if (*table < header_bytes || !fits(*table, head_.table_bytes(), file_->size())) {
    made.found = errc::corrupt_image;
    return made;
  }
  const std::uint64_t cluster = head_.cluster_bytes();
  const auto entry = entry_at(*table, range.offset % span / cluster, made.missing_slice);
  if (entry)
    made.found = describe(*entry, range.offset, std::min(range.length, cluster - range.offset % cluster));
  return made;
}

result<extent> qcow1_image::describe(std::uint64_t entry, std::uint64_t guest_offset,
                                     std::uint64_t most) const {
  const std::optional<cluster_place> place = decode_entry(entry, head_, file_->size());
  if (!place) return errc::corrupt_image;
  extent made;
  made.length = most;
  if (place->kind == cluster_place::kind_type::unallocated) return made;
  const std::uint64_t in_cluster = guest_offset % head_.cluster_bytes();
  if (place->kind == cluster_place::kind_type::compressed) {
    made.kind = extent_kind::encoded;
    made.unit = {.guest = {guest_offset - in_cluster, head_.cluster_bytes()},
                 .host = place->host,
                 .decode = &decode_deflate};
    return made;
  }
  made.kind = extent_kind::data;
  made.host_offset = place->host.offset + in_cluster;
  return made;
}

task<result<extent>> qcow1_image::do_map(byte_range range, map_effort) {
  while (true) {
    const answer made = look_up(range);
    if (made.found) co_return *made.found;
    const result<void> loaded = co_await tables_.load(made.missing_slice);
    if (!loaded) co_return loaded.error();
  }
}

std::optional<result<extent>> qcow1_image::do_try_map(byte_range range, map_effort) {
  return look_up(range).found;
}

task<result<void>> qcow1_image::do_close() {
  co_return co_await file_->close();
}

}  // namespace weir::qcow1
