#include "engine/block/gather.hpp"

#include "engine/base/zero_scan.hpp"
#include "engine/storage/positional_io.hpp"

#include <cassert>
#include <cstring>
#include <utility>

namespace weir {
namespace {

storage& storage_of(const located_extent& from) {
  return from.owner->image->storage_at(from.found.extent.storage_index);
}

/// The wanted part of a decoded unit.
void copy_wanted(const encoded_unit& unit, std::span<const std::byte> decoded, std::uint64_t guest_offset,
                 std::span<std::byte> wanted) {
  std::memcpy(wanted.data(), decoded.data() + (guest_offset - unit.guest.offset), wanted.size());
}

/// Reads and decodes one unit; `read_host` fills a buffer with its host bytes.
result<void> decode_from(const encoded_unit& unit, std::span<const std::byte> encoded,
                         std::uint64_t guest_offset, std::span<std::byte> wanted) {
  std::vector<std::byte> decoded(unit.guest.length);
  const result<void> done = unit.decode(encoded, decoded);
  if (done) copy_wanted(unit, decoded, guest_offset, wanted);
  return done;
}

task<result<void>> read_encoded(engine_resources resources, const located_extent& from,
                                std::uint64_t guest_offset, std::span<std::byte> wanted) {
  const encoded_unit& unit = from.found.extent.unit;
  std::vector<std::byte> encoded(unit.host.length);
  const result<void> got = co_await storage_of(from).read(unit.host.offset, encoded);
  if (!got) co_return got;
  auto decode = [&] { return decode_from(unit, encoded, guest_offset, wanted); };
  co_return co_await resources.workers.run(std::move(decode));
}

/// A descriptor serves a piece if its storage has one.
std::optional<int> descriptor_of(const located_extent& from) {
  const extent_kind kind = from.found.extent.kind;
  if (kind != extent_kind::data && kind != extent_kind::encoded) return std::nullopt;
  return storage_of(from).descriptor();
}

bool reads_as_zero(const extent& what) {
  return what.kind == extent_kind::zero || what.kind == extent_kind::unallocated;
}

}  // namespace

task<result<void>> read_chain(engine_resources resources, const chain& from, byte_range range,
                              std::span<std::byte> buffer, depth_range among) {
  assert(buffer.size() == range.length);
  while (!range.empty()) {
    const result<located_extent> found = co_await from.lookup(range, among, map_effort::locate);
    if (!found) co_return found.error();
    const located_extent& here = *found;
    const auto part = buffer.first(static_cast<std::size_t>(here.length()));
    result<void> got;
    switch (here.found.extent.kind) {
      case extent_kind::data:
        got = co_await storage_of(here).read(here.found.extent.host_offset, part);
        break;
      case extent_kind::encoded:
        got = co_await read_encoded(resources, here, range.offset, part);
        break;
      case extent_kind::zero:
      case extent_kind::unallocated:
        std::memset(part.data(), 0, part.size());
        break;
    }
    if (!got) co_return got;
    buffer = buffer.subspan(part.size());
    range = range_between(range.offset + part.size(), range.end());
  }
  co_return result<void>{};
}

bool read_chain_at_once(const chain& from, byte_range range, std::span<std::byte> buffer) {
  assert(buffer.size() == range.length);
  while (!range.empty()) {
    const auto found = from.try_lookup(range, {}, map_effort::locate);
    if (!found || !*found) return false;
    const located_extent& here = **found;
    const extent& what = here.found.extent;
    const auto part = buffer.first(static_cast<std::size_t>(what.length));
    if (what.kind == extent_kind::encoded) return false;
    if (what.kind == extent_kind::data) {
      const std::optional<int> descriptor = storage_of(here).descriptor();
      if (!descriptor) return false;
      const bool may_wait = !from.is_in_memory(*descriptor);
      if (!read_if_cached(*descriptor, what.host_offset, part, may_wait)) return false;
    } else {
      std::memset(part.data(), 0, part.size());
    }
    buffer = buffer.subspan(part.size());
    range = range_between(range.offset + part.size(), range.end());
  }
  return true;
}

task<result<gather_plan>> gather_plan::plan(const chain& from, byte_range range, depth_range among) {
  gather_plan made;
  std::uint64_t position = 0;
  while (!range.empty()) {
    result<located_extent> found = co_await from.lookup(range, among, map_effort::locate);
    if (!found) co_return found.error();
    const std::uint64_t length = found->length();
    const std::optional<int> descriptor = descriptor_of(*found);
    made.pieces_.push_back({position, length, range.offset, std::move(*found), descriptor, {}});
    position += length;
    range = range_between(range.offset + length, range.end());
  }
  co_return made;
}

task<result<void>> gather_plan::read_by_storage(std::span<std::byte> buffer) {
  for (piece& each : pieces_) {
    const extent& what = each.from.found.extent;
    if (each.descriptor || reads_as_zero(what)) continue;
    std::uint64_t host_offset = what.host_offset;
    std::span<std::byte> into = buffer.subspan(each.position, each.length);
    if (what.kind == extent_kind::encoded) {
      each.encoded.resize(what.unit.host.length);
      host_offset = what.unit.host.offset;
      into = each.encoded;
    }
    const result<void> got = co_await storage_of(each.from).read(host_offset, into);
    if (!got) co_return got;
  }
  co_return result<void>{};
}

std::optional<std::vector<gather_plan::raw_run>> gather_plan::raw_runs() const {
  std::vector<raw_run> runs;
  for (const piece& each : pieces_) {
    const extent& what = each.from.found.extent;
    if (reads_as_zero(what)) continue;
    if (what.kind != extent_kind::data || !each.descriptor) return std::nullopt;
    runs.push_back({{each.position, each.length}, *each.descriptor, what.host_offset});
  }
  return runs;
}

result<void> gather_plan::read_by_descriptor(std::span<std::byte> buffer) {
  for (piece& each : pieces_) {
    const auto part = buffer.subspan(each.position, each.length);
    const extent& what = each.from.found.extent;
    result<void> got;
    if (reads_as_zero(what)) {
      std::memset(part.data(), 0, part.size());
    } else if (what.kind == extent_kind::data) {
      if (each.descriptor) got = read_fully(*each.descriptor, what.host_offset, part);
    } else {
      if (each.descriptor) {
        each.encoded.resize(what.unit.host.length);
        got = read_fully(*each.descriptor, what.unit.host.offset, each.encoded);
      }
      if (got) got = decode_from(what.unit, each.encoded, each.guest_offset, part);
    }
    if (!got) return got;
  }
  return {};
}

task<result<std::vector<byte_range>>> gather_and_scan(engine_resources resources, const chain& from,
                                                      byte_range range, std::span<std::byte> buffer,
                                                      std::uint64_t granularity) {
  const depth_range everywhere;
  result<gather_plan> plan = co_await gather_plan::plan(from, range, everywhere);
  if (!plan) co_return plan.error();
  const result<void> read = co_await plan->read_by_storage(buffer);
  if (!read) co_return read.error();
  auto read_rest = [&plan, buffer, granularity]() -> result<std::vector<byte_range>> {
    const result<void> done = plan->read_by_descriptor(buffer);
    if (!done) return done.error();
    return non_zero_runs(buffer, granularity);
  };
  co_return co_await resources.workers.run(std::move(read_rest));
}

}  // namespace weir
