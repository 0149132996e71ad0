#include "engine/block/placement.hpp"

#include "engine/base/zero_scan.hpp"
#include "engine/block/gather.hpp"
#include "engine/storage/positional_io.hpp"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <optional>

namespace weir {
namespace {

constexpr std::uint64_t fill_piece_bytes = 1 * MiB;
/// Up to here head, data and tail go out as one write from one buffer.
constexpr std::uint64_t joined_write_bytes = 256 * KiB;

/// Where one piece of a run goes: an extent in place, pinned, or a new allocation.
struct target_piece {
  std::optional<allocation> reserved;
  pin_ledger::pin pin;
  std::uint8_t storage_index;
  std::uint64_t host_offset;
  std::span<const std::byte> data;
  bool written = false;
};

task<void> release_all(image& into, std::span<const target_piece> pieces) {
  for (const target_piece& each : pieces) {
    // The space leaks at worst; the error that led here is the one to report.
    if (each.reserved) static_cast<void>(co_await into.release(*each.reserved));
  }
}

/// Only a part of a cluster, or grains beyond those asked for: others may wait until it is published, the caller
/// himself if he allocates next to it, and those who have a buffer of the pool. See image::allocate.
bool may_be_waited_for(const image& into, const allocation& where) {
  const std::uint64_t grain = into.grain();
  if (where.head.length >= grain || where.tail.length >= grain) return true;
  const std::optional<unit_encoding> form = into.encoding();
  return form && form->unit_bytes > grain && align_outward(where.guest, form->unit_bytes) != where.guest;
}

/// Data, head and tail of grains that move; neither edge is longer than a cluster. Others who have a buffer of the
/// pool may wait until they are published, so what is needed must not come from there.
task<result<void>> write_moved(write_context context, const allocation& where,
                               std::span<const std::byte> data) {
  storage& target = context.layers.active().image->storage_at(where.storage_index);
  for (const byte_range edge : {where.head, where.tail}) {
    if (edge.empty()) continue;
    std::vector<std::byte> bytes(edge.length);
    result<void> done = co_await read_chain(context.resources, context.layers, edge, bytes, {});
    const std::uint64_t host = where.host_offset + (edge.offset - where.guest.offset);
    if (done) done = co_await target.write(host, bytes);
    if (!done) co_return done;
  }
  co_return co_await target.write(where.host_offset + where.head.length, data);
}

/// Writes and publishes at once what an allocation moves; see image::allocate.
task<result<std::uint64_t>> place_moved(write_context context, const allocation& where,
                                        std::span<const std::byte> data) {
  image& into = *context.layers.active().image;
  const auto part = data.first(where.guest.length - where.head.length - where.tail.length);
  result<void> done = co_await write_moved(context, where, part);
  if (done) done = co_await into.publish(where);
  if (done) co_return part.size();
  static_cast<void>(co_await into.release(where));
  co_return done.error();
}

task<result<target_piece>> find_or_reserve(write_context context, placed_run run) {
  image& into = *context.layers.active().image;
  result<mapping> found = co_await into.map(run.guest, map_effort::locate);
  if (!found) co_return found.error();
  const extent here = found->extent;
  if (here.kind == extent_kind::data && here.in_place) {
    co_return target_piece{std::nullopt, std::move(found->pin), here.storage_index, here.host_offset,
                           run.data.first(here.length)};
  }
  const byte_range wanted{run.guest.offset, here.length};
  const result<allocation> where = co_await into.allocate(wanted);
  if (!where) co_return where.error();
  if (may_be_waited_for(into, *where)) {
    const result<std::uint64_t> placed = co_await place_moved(context, *where, run.data);
    if (!placed) co_return placed.error();
    co_return target_piece{std::nullopt, {}, 0, 0, run.data.first(*placed), true};
  }
  assert(where->head.empty() && where->tail.empty() && where->guest.length <= run.data.size());
  co_return target_piece{
      *where, {}, where->storage_index, where->host_offset, run.data.first(where->guest.length)};
}

task<result<std::vector<target_piece>>> reserve(write_context context, std::vector<placed_run> runs) {
  image& into = *context.layers.active().image;
  std::vector<target_piece> pieces;
  for (placed_run& run : runs) {
    while (!run.guest.empty()) {
      result<target_piece> piece = co_await find_or_reserve(context, run);
      if (!piece) {
        co_await release_all(into, pieces);
        co_return piece.error();
      }
      const std::size_t covered = piece->data.size();
      pieces.push_back(std::move(*piece));
      run.guest = range_between(run.guest.offset + covered, run.guest.end());
      run.data = run.data.subspan(covered);
    }
  }
  co_return pieces;
}

task<result<void>> write_pieces(engine_resources resources, image& into,
                                std::span<const target_piece> pieces) {
  struct write_by_descriptor {
    int descriptor;
    std::uint64_t offset;
    std::span<const std::byte> data;
  };
  std::vector<write_by_descriptor> writes;
  for (const target_piece& each : pieces) {
    if (each.written) continue;
    storage& target = into.storage_at(each.storage_index);
    const std::optional<int> descriptor = target.descriptor();
    if (descriptor && target.capabilities().writable) {
      writes.push_back({*descriptor, each.host_offset, each.data});
      continue;
    }
    const result<void> done = co_await target.write(each.host_offset, each.data);
    if (!done) co_return done;
  }
  if (writes.empty()) co_return result<void>{};
  auto write_all = [&writes]() -> result<void> {
    for (const write_by_descriptor& each : writes) {
      const result<void> done = write_fully(each.descriptor, each.offset, each.data);
      if (!done) return done;
    }
    return {};
  };
  const result<void> done = co_await resources.workers.run(std::move(write_all));
  for (const target_piece& each : pieces) {
    if (each.written) continue;
    into.storage_at(each.storage_index).note_descriptor_write({each.host_offset, each.data.size()});
  }
  co_return done;
}

task<result<void>> publish_all(image& into, std::span<const target_piece> pieces) {
  for (std::size_t index = 0; index < pieces.size(); ++index) {
    const target_piece& each = pieces[index];
    if (!each.reserved) continue;
    const result<void> published = co_await into.publish(*each.reserved);
    if (!published) {
      co_await release_all(into, pieces.subspan(index));
      co_return published;
    }
  }
  co_return result<void>{};
}

/// What lies side by side on the storage and in memory as one piece, for writing only.
std::vector<target_piece> joined_where_adjacent(std::span<const target_piece> pieces) {
  std::vector<target_piece> joined;
  for (const target_piece& each : pieces) {
    if (!joined.empty()) {
      target_piece& last = joined.back();
      const bool follows = last.storage_index == each.storage_index &&
                           last.host_offset + last.data.size() == each.host_offset &&
                           last.data.data() + last.data.size() == each.data.data();
      if (follows) {
        last.data = {last.data.data(), last.data.size() + each.data.size()};
        continue;
      }
    }
    joined.push_back({std::nullopt, {}, each.storage_index, each.host_offset, each.data});
  }
  return joined;
}

/// Fills `range` of the reserved grains with what it reads as now, in pieces.
task<result<void>> fill(write_context context, const allocation& where, byte_range range) {
  storage& target = context.layers.active().image->storage_at(where.storage_index);
  while (!range.empty()) {
    const std::uint64_t length = std::min(range.length, fill_piece_bytes);
    const byte_range part{range.offset, length};
    const buffer_lease piece = co_await context.fill_buffers.acquire(length);
    const result<void> got = co_await read_chain(context.resources, context.layers, part, piece.bytes(), {});
    if (!got) co_return got;
    if (!where.host_is_zero || !is_all_zero(piece.bytes())) {
      const std::uint64_t host = where.host_offset + (part.offset - where.guest.offset);
      const result<void> put = co_await target.write(host, piece.bytes());
      if (!put) co_return put;
    }
    range = range_between(part.end(), range.end());
  }
  co_return result<void>{};
}

/// Head, data and tail in one buffer and one write.
task<result<void>> write_joined(write_context context, const allocation& where,
                                std::span<const std::byte> data) {
  const buffer_lease joined = co_await context.fill_buffers.acquire(where.guest.length);
  const auto part = [&](byte_range guest) {
    return joined.bytes().subspan(guest.offset - where.guest.offset, guest.length);
  };
  for (const byte_range edge : {where.head, where.tail}) {
    if (edge.empty()) continue;
    const result<void> got = co_await read_chain(context.resources, context.layers, edge, part(edge), {});
    if (!got) co_return got;
  }
  const std::uint64_t data_at = where.head.empty() ? where.guest.offset : where.head.end();
  std::memcpy(joined.data() + (data_at - where.guest.offset), data.data(), data.size());
  byte_range span = where.guest;
  if (where.host_is_zero && is_all_zero(part(where.head))) span = range_between(data_at, span.end());
  if (where.host_is_zero && is_all_zero(part(where.tail)))
    span = range_between(span.offset, data_at + data.size());
  storage& target = context.layers.active().image->storage_at(where.storage_index);
  co_return co_await target.write(where.host_offset + (span.offset - where.guest.offset), part(span));
}

task<result<void>> write_parts(write_context context, const allocation& where,
                               std::span<const std::byte> data) {
  if (may_be_waited_for(*context.layers.active().image, where))
    co_return co_await write_moved(context, where, data);
  const bool whole = where.head.empty() && where.tail.empty();
  if (!whole && where.guest.length <= joined_write_bytes)
    co_return co_await write_joined(context, where, data);
  for (const byte_range edge : {where.head, where.tail}) {
    const result<void> filled = co_await fill(context, where, edge);
    if (!filled) co_return filled;
  }
  storage& target = context.layers.active().image->storage_at(where.storage_index);
  co_return co_await target.write(where.host_offset + where.head.length, data);
}

}  // namespace

task<result<std::optional<mapping>>> find_in_place(image& into, byte_range range) {
  result<mapping> found = co_await into.map(range, map_effort::locate);
  if (!found) co_return found.error();
  const extent& here = found->extent;
  std::optional<mapping> place;
  if (here.kind == extent_kind::data && here.in_place && here.length == range.length) {
    place.emplace(std::move(*found));
  }
  co_return place;
}

task<result<void>> place_runs(write_context context, std::vector<placed_run> runs) {
  image& into = *context.layers.active().image;
  result<std::vector<target_piece>> pieces = co_await reserve(context, std::move(runs));
  if (!pieces) co_return pieces.error();
  const result<void> written = co_await write_pieces(context.resources, into, *pieces);
  if (!written) {
    co_await release_all(into, *pieces);
    co_return written;
  }
  co_return co_await publish_all(into, *pieces);
}

task<result<std::size_t>> place_encoded(engine_resources resources, image& into,
                                        std::span<const encoded_piece> units) {
  std::vector<target_piece> pieces;
  for (const encoded_piece& unit : units) {
    const result<allocation> slot = co_await into.allocate_encoded(unit.guest, unit.bytes.size());
    if (!slot && slot.error() == errc::not_supported) break;
    if (!slot) {
      co_await release_all(into, pieces);
      co_return slot.error();
    }
    pieces.push_back({*slot, {}, slot->storage_index, slot->host_offset, unit.bytes});
  }
  const std::vector<target_piece> writes = joined_where_adjacent(pieces);
  const result<void> written = co_await write_pieces(resources, into, writes);
  if (!written) {
    co_await release_all(into, pieces);
    co_return written.error();
  }
  const result<void> published = co_await publish_all(into, pieces);
  if (!published) co_return published.error();
  co_return pieces.size();
}

task<result<std::uint64_t>> write_to_new_grains(write_context context, std::uint64_t offset,
                                                std::span<const std::byte> data) {
  image& active = *context.layers.active().image;
  const result<allocation> where = co_await active.allocate({offset, data.size()});
  if (!where) co_return where.error();
  const std::uint64_t covered = intersection(where->guest, {offset, data.size()}).length;
  result<void> done = co_await write_parts(context, *where, data.first(covered));
  if (done) done = co_await active.publish(*where);
  if (!done) {
    static_cast<void>(co_await active.release(*where));
    co_return done.error();
  }
  co_return covered;
}

task<result<grain_content>> copy_huge_grain(write_context context, byte_range range) {
  // First find out whether there is anything but zeros, then copy: a grain this large is not worth buffering.
  bool all_zero = true;
  for (byte_range rest = range; all_zero && !rest.empty();) {
    const byte_range part{rest.offset, std::min(rest.length, fill_piece_bytes)};
    const buffer_lease piece = co_await context.fill_buffers.acquire(part.length);
    const result<void> got = co_await read_chain(context.resources, context.layers, part, piece.bytes(), {});
    if (!got) co_return got.error();
    all_zero = is_all_zero(piece.bytes());
    rest = range_between(part.end(), rest.end());
  }
  if (all_zero) co_return grain_content::zero;
  image& active = *context.layers.active().image;
  while (!range.empty()) {
    const result<allocation> where = co_await active.allocate(range);
    if (!where) co_return where.error();
    result<void> done = co_await fill(context, *where, where->guest);
    if (done) done = co_await active.publish(*where);
    if (!done) {
      static_cast<void>(co_await active.release(*where));
      co_return done.error();
    }
    range = range_between(where->guest.end(), range.end());
  }
  co_return grain_content::copied;
}

}  // namespace weir
