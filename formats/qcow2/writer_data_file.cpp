// Where guest data goes that lies in an external data file (images.md sections 1 and 2): always to its guest
// offset. Nothing is reserved, counted or moved there, so an allocation only says which grains to fill.
#include "formats/qcow2/refcounts.hpp"
#include "formats/qcow2/writer.hpp"

#include <algorithm>
#include <bit>
#include <cerrno>

namespace weir::qcow2 {

/// The grains of `range` up to the first cluster boundary behind which something is in place already.
/// Precondition: the slice `at` is cached.
result<allocation> writer::place_in_data_file(byte_range range, const placed_slice& at) const {
  const std::uint64_t first = shape_.cluster_of(range.offset);
  std::uint64_t end = range.offset;
  for (std::uint64_t index = 0; index < at.count; ++index) {
    const l2_entry entry = entry_at(at, index);
    const bool sound = tables_.is_sound(entry, first + index);
    if (!sound && index == 0) return errc::corrupt_image;
    const bool in_place = entry.kind == entry_kind::data && entry.copied;
    if (!sound || (in_place && index > 0)) break;
    end = shape_.offset_of(first + index + 1);
    if (!in_place) continue;
    const auto from =
        static_cast<unsigned>((range.offset >> shape_.grain_bits()) & (shape_.subcluster_count() - 1));
    const std::uint32_t later = from < 31 ? entry.allocated >> (from + 1) : 0;
    if (later != 0) {
      const std::uint64_t stop = from + 1 + static_cast<unsigned>(std::countr_zero(later));
      end = shape_.offset_of(first) + (stop << shape_.grain_bits());
    }
    break;
  }
  const byte_range asked = range_between(range.offset, std::min(range.end(), end));
  const byte_range grains = align_outward(asked, shape_.grain_size());
  allocation made;
  made.guest = intersection(grains, {0, tables_.head.virtual_size});
  made.head = range_between(made.guest.offset, asked.offset);
  made.tail = range_between(asked.end(), made.guest.end());
  made.storage_index = tables_.data_index();
  made.host_offset = made.guest.offset;
  made.token = reused_token;
  return made;
}

/// The raw data file reads as zero there, at whatever cost.
task<result<void>> writer::zero_data_file(byte_range range, zero_mode mode) {
  const result<void> zeroed = co_await tables_.data_file->zero(range, mode);
  if (zeroed || zeroed.error() != errc::not_supported) co_return zeroed;
  co_return co_await write_zeros(*tables_.data_file, range);
}

/// The data file ends where a disk of `size` bytes does; what it had behind the old end reads as zero.
task<result<void>> writer::resize_data_file(std::uint64_t size) {
  if (tables_.data_file == nullptr) co_return result<void>{};
  storage& data = *tables_.data_file;
  const std::uint64_t kept = std::min(size, tables_.head.virtual_size);
  if (!data.capabilities().can_grow) {
    if (size > data.size()) co_return errno_code(ENOSPC);
    if (!tables_.head.has_raw_data_file()) co_return result<void>{};
    co_return co_await zero_data_file(range_between(kept, size), zero_mode::keep_allocated);
  }
  if (data.size() > kept) {
    const result<void> cut = co_await data.truncate(kept);
    if (!cut) co_return cut.error();
  }
  if (data.size() == size) co_return result<void>{};
  co_return co_await data.truncate(size);
}

/// Space of a data file that no entry names any more. Zeros are as good as the old bytes to whoever reads them
/// still, and where punching is refused only space is lost.
task<void> writer::give_up_data(byte_range range) {
  if (tables_.data_file == nullptr || !tables_.data_file->capabilities().can_punch) co_return;
  const byte_range stored = intersection(range, {0, tables_.data_file->size()});
  if (stored.empty()) co_return;
  const result<void> ignored = co_await tables_.data_file->zero(stored, zero_mode::may_punch);
  static_cast<void>(ignored);
}

}  // namespace weir::qcow2
