// Guest requests that need no waiting: cached metadata, and data in memory or in the page cache. Most requests are of
// this kind, and then a coroutine, a turn of the executor or a trip to the kernel's queue costs more than the work.
//
// Whatever is not plain goes the general way (disk.cpp): copy-on-read, observers, zero detection, FUA, a shut gate,
// a range in flight, new clusters, and errors, so that those are told once.
#include "engine/block/disk.hpp"
#include "engine/block/gather.hpp"
#include "engine/storage/positional_io.hpp"

namespace weir {

bool disk::read_at_once(std::uint64_t offset, std::span<std::byte> buffer) {
  if (buffer.empty() || buffer.size() > longest_at_once || !fits(offset, buffer.size(), size())) return false;
  if (settings_.copy_on_read && !settings_.read_only && chain_->depth() > 1) return false;
  gate::pass pass;
  if (!gate_.try_enter(pass)) return false;
  return read_chain_at_once(*chain_, {offset, buffer.size()}, buffer);
}

std::optional<disk::file_place> disk::cached_place(byte_range range) {
  // Where every byte is always allocated, guest bytes keep their place.
  if (chain_->depth() > 1 || active().grain() != 1 || !fits(range.offset, range.length, size()))
    return std::nullopt;
  gate::pass pass;
  if (range.empty() || !gate_.try_enter(pass)) return std::nullopt;
  const std::optional<result<mapping>> found = active().try_map(range, map_effort::locate);
  if (!found || !*found) return std::nullopt;
  const extent& here = (*found)->extent;
  if (here.kind != extent_kind::data || here.length != range.length) return std::nullopt;
  const std::optional<int> descriptor = active().storage_at(here.storage_index).descriptor();
  if (!descriptor || !is_cached(*descriptor, here.host_offset, range.length)) return std::nullopt;
  return file_place{*descriptor, here.host_offset};
}

bool disk::write_at_once(std::uint64_t offset, std::span<const std::byte> data, write_flags flags) {
  const byte_range range{offset, data.size()};
  if (data.empty() || data.size() > longest_at_once || !check_change(range)) return false;
  if (flags.fua || !observers_.empty() || settings_.detect_zeroes != zero_detection::off) return false;
  gate::pass pass;
  if (!gate_.try_enter(pass)) return false;
  const std::optional<in_flight_ranges::hold> held = in_flight_.try_acquire(range);
  if (!held) return false;
  const std::optional<result<mapping>> found = active().try_map(range, map_effort::locate);
  if (!found || !*found) return false;
  const extent& here = (*found)->extent;
  if (here.kind != extent_kind::data || !here.in_place || here.length != range.length) return false;
  storage& target = active().storage_at(here.storage_index);
  const std::optional<int> descriptor = target.descriptor();
  if (!descriptor || !target.capabilities().writable || !chain_->is_in_memory(*descriptor)) return false;
  const bool written = static_cast<bool>(write_fully(*descriptor, here.host_offset, data));
  if (written) target.note_descriptor_write({here.host_offset, data.size()});
  return written;
}

}  // namespace weir
