#include "engine/copy/resize_disk.hpp"

#include "engine/block/cluster_bytes.hpp"

#include <algorithm>
#include <vector>

namespace weir {
namespace {

constexpr std::uint64_t zero_step_bytes = 1 * MiB;

/// Where the cluster at the old end is over, or the new end.
std::uint64_t cluster_end(const image& of, std::uint64_t old_size, std::uint64_t size) {
  return std::min(align_up(old_size, cluster_bytes(of)), size);
}

/// True if a longer backing image would show behind the old end.
bool backing_shows_behind(const disk& changed, std::uint64_t old_size) {
  const image& active = *changed.chain().active().image;
  return std::ranges::any_of(changed.chain().layers(), [&](const std::shared_ptr<layer>& each) {
    return each->image.get() != &active && each->image->virtual_size() > old_size;
  });
}

task<result<void>> write_zeros(storage& into, byte_range range) {
  const std::vector<std::byte> zeros(std::min(range.length, zero_step_bytes));
  while (!range.empty()) {
    const auto part = std::span(zeros).first(std::min<std::uint64_t>(range.length, zeros.size()));
    const result<void> wrote = co_await into.write(range.offset, part);
    if (!wrote) co_return wrote;
    range = range_between(range.offset + part.size(), range.end());
  }
  co_return result<void>{};
}

/// True if the sector before the end is a cluster's that belongs to this image alone.
bool is_own(const extent& here) {
  return here.kind == extent_kind::data && here.in_place;
}

/// What the cluster of the sector before the end, the image's own, has behind the end.
task<result<void>> clear_own_cluster(image& of, byte_range last, std::uint64_t end) {
  const result<mapping> found = co_await of.map(last, map_effort::locate);
  if (!found) co_return found.error();
  if (!is_own(found->extent)) co_return errc::corrupt_image;
  storage& behind = of.storage_at(found->extent.storage_index);
  const byte_range tail{found->extent.host_offset + last.length, end - last.end()};
  co_return co_await write_zeros(behind, intersection(tail, {0, behind.size()}));
}

/// Before the disk grows: what its last cluster holds behind the end, or a backing image shows there, becomes zeros
/// while nobody sees it, so that no power loss can bring it up.
task<result<void>> clear_behind_end(disk& changed, bool backing_shows) {
  image& active = *changed.chain_for_change().active().image;
  const std::uint64_t size = active.virtual_size();
  const std::uint64_t end = align_up(size, cluster_bytes(active));
  if (end == size || size == 0) co_return result<void>{};
  const byte_range last = range_between(align_down(size - 1, 512), size);
  bool own = false;
  {
    const result<mapping> found = co_await active.map(last, map_effort::locate);
    if (!found) co_return found.error();
    const extent& here = found->extent;
    own = is_own(here);
    if (here.kind == extent_kind::zero) co_return result<void>{};
    if (here.kind == extent_kind::unallocated && !backing_shows) co_return result<void>{};
  }
  if (!own) {
    // Written once more it has a cluster of its own.
    std::vector<std::byte> sector(static_cast<std::size_t>(last.length));
    result<void> done = co_await changed.read(last.offset, sector);
    if (done) done = co_await changed.write(last.offset, sector, {});
    if (!done) co_return done;
  }
  co_return co_await clear_own_cluster(active, last, end);
}

/// The host range reads as zero, as `mode` wants it.
task<result<void>> prepare(storage& into, byte_range host, preallocation mode) {
  if (mode == preallocation::full) co_return co_await write_zeros(into, host);
  const zero_mode how = mode == preallocation::falloc ? zero_mode::keep_allocated : zero_mode::may_punch;
  const result<void> zeroed = co_await into.zero(host, how);
  if (zeroed || zeroed.error() != errc::not_supported) co_return zeroed;
  co_return co_await write_zeros(into, host);
}

/// Maps the first part of `range`, which reads as zero, and returns how long that is.
task<result<std::uint64_t>> preallocate_some(image& into, byte_range range, preallocation mode) {
  {
    const result<mapping> found = co_await into.map(range, map_effort::locate);
    if (!found) co_return found.error();
    const extent& here = found->extent;
    if (here.kind == extent_kind::data && here.in_place) {
      result<void> done;
      storage& behind = into.storage_at(here.storage_index);
      const byte_range host{here.host_offset, here.length};
      if (mode != preallocation::metadata) done = co_await prepare(behind, host, mode);
      if (!done) co_return done.error();
      co_return here.length;
    }
  }
  const result<allocation> reserved = co_await into.allocate(range);
  if (!reserved) co_return reserved.error();
  const byte_range host{reserved->host_offset, reserved->guest.length};
  result<void> done;
  // Something that is in use would become zero.
  if (!reserved->head.empty() || !reserved->tail.empty()) done = errc::corrupt_image;
  if (done && (mode != preallocation::metadata || !reserved->host_is_zero)) {
    done = co_await prepare(into.storage_at(reserved->storage_index), host, mode);
  }
  if (done) done = co_await into.publish(*reserved);
  if (!done) {
    const result<void> ignored = co_await into.release(*reserved);
    static_cast<void>(ignored);
    co_return done.error();
  }
  co_return reserved->guest.end() - range.offset;
}

task<result<void>> preallocate(image& into, byte_range range, preallocation mode) {
  while (!range.empty()) {
    const result<std::uint64_t> done = co_await preallocate_some(into, range, mode);
    if (!done) co_return done.error();
    range = range_between(range.offset + *done, range.end());
  }
  co_return result<void>{};
}

}  // namespace

task<outcome<void>> resize_disk(disk& changed, std::uint64_t size, preallocation mode) {
  image& active = *changed.chain_for_change().active().image;
  const std::uint64_t old_size = active.virtual_size();
  if (size <= old_size) co_return co_await active.resize(size);
  const bool backing_shows = backing_shows_behind(changed, old_size);
  // To where reading could show anything but zeros: the cluster at the old end is filled up, too.
  const std::uint64_t zero_end = backing_shows ? size : cluster_end(active, old_size, size);
  result<void> done = co_await clear_behind_end(changed, backing_shows);
  if (!done) co_return make_failure(done.error(), changed.name());
  const outcome<void> resized = co_await active.resize(size, backing_shows ? size : 0);
  if (!resized) co_return resized;
  // For formats that could not say so, and for the rest of a compressed cluster.
  const zero_flags punch;
  done = co_await changed.zero(range_between(old_size, zero_end), punch);
  // The cluster at the old end stays as it is: part of it is in use.
  const byte_range unused = range_between(cluster_end(active, old_size, size), size);
  if (done && mode != preallocation::off) done = co_await preallocate(active, unused, mode);
  if (done) done = co_await changed.flush();
  if (!done) co_return make_failure(done.error(), changed.name());
  co_return outcome<void>{};
}

}  // namespace weir
