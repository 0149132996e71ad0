#include "formats/qcow2/table_readers.hpp"

#include <algorithm>
#include <array>
#include <span>
#include <utility>

namespace weir::qcow2 {
namespace {

constexpr std::uint64_t window_bytes = 64 * KiB;

/// Bytes of the snapshot table, read ahead in windows.
class table_window {
 public:
  explicit table_window(storage& file) : file_(file) {}

  /// [offset, offset + length) of the file. Precondition: inside the file.
  task<result<std::span<const std::byte>>> get(std::uint64_t offset, std::uint64_t length) {
    if (!window_.contains(byte_range{offset, length})) {
      const std::uint64_t rest = file_.size() - offset;
      window_ = {offset, std::min(std::max(length, window_bytes), rest)};
      bytes_.resize(static_cast<std::size_t>(window_.length));
      const result<void> got = co_await file_.read(offset, bytes_);
      if (!got) co_return got.error();
    }
    co_return std::span<const std::byte>(bytes_).subspan(static_cast<std::size_t>(offset - window_.offset),
                                                         static_cast<std::size_t>(length));
  }

 private:
  storage& file_;
  byte_range window_;
  std::vector<std::byte> bytes_;
};

failure cut_off(const storage& file, std::size_t index) {
  return make_failure(errc::corrupt_image, file.location(),
                      "snapshot " + std::to_string(index) +
                          " of the table ends past the end of the file or above the limit of 64 MiB");
}

}  // namespace

task<outcome<snapshot_table>> read_snapshot_table(storage& file, const header& head) {
  snapshot_table table;
  table_window window(file);
  std::uint64_t end = head.snapshots_offset;
  for (std::uint32_t index = 0; index < head.snapshot_count; ++index) {
    const std::uint64_t at = align_up(end, 8);
    if (!fits(at, snapshot_head_bytes, file.size())) co_return cut_off(file, index);
    const auto first = co_await window.get(at, snapshot_head_bytes);
    if (!first) co_return make_failure(first.error(), file.location());
    const outcome<std::uint64_t> length = snapshot_entry_length(*first, file.location());
    if (!length) co_return length.error();
    const bool within_limit = at + *length - head.snapshots_offset <= largest_snapshot_table_bytes;
    if (!within_limit || !fits(at, *length, file.size())) co_return cut_off(file, index);
    const auto whole = co_await window.get(at, *length);
    if (!whole) co_return make_failure(whole.error(), file.location());
    table.entries.push_back(parse_snapshot(*whole));
    end = at + *length;
  }
  table.length = end - head.snapshots_offset;
  co_return table;
}

task<outcome<std::optional<bitmap_directory>>> read_bitmap_directory(storage& file, const header& head) {
  const extension* found = head.find(bitmaps_extension_type);
  if (found == nullptr) co_return std::optional<bitmap_directory>();
  std::vector<std::byte> data(
      static_cast<std::size_t>(std::min(found->data.length, head.shape.cluster_size())));
  result<void> got = co_await file.read(found->data.offset, data);
  if (!got) co_return make_failure(got.error(), file.location());
  const outcome<bitmaps_place> place =
      parse_bitmaps_extension(data, head.shape, file.size(), file.location());
  if (!place) co_return place.error();
  std::vector<std::byte> bytes(static_cast<std::size_t>(place->directory.length));
  got = co_await file.read(place->directory.offset, bytes);
  if (!got) co_return make_failure(got.error(), file.location());
  outcome<std::vector<bitmap_entry>> entries = parse_bitmap_directory(bytes, place->count, file.location());
  if (!entries) co_return entries.error();
  std::optional<bitmap_directory> made(bitmap_directory{*place, std::move(*entries)});
  co_return made;
}

}  // namespace weir::qcow2
