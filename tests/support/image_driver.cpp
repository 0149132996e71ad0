#include "tests/support/image_driver.hpp"

#include "engine/base/zero_scan.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

namespace weir::test {

task<result<void>> image_driver::read(std::uint64_t offset, std::span<std::byte> buffer) {
  while (!buffer.empty()) {
    const result<mapping> found = co_await locate({offset, buffer.size()});
    if (!found) co_return found.error();
    const std::span<std::byte> part = buffer.first(static_cast<std::size_t>(found->extent.length));
    const result<void> got = co_await read_extent(found->extent, offset, part);
    if (!got) co_return got.error();
    offset += part.size();
    buffer = buffer.subspan(part.size());
  }
  co_return result<void>{};
}

task<result<void>> image_driver::write(std::uint64_t offset, std::span<const std::byte> data) {
  while (!data.empty()) {
    result<mapping> found = co_await locate({offset, data.size()});
    if (!found) co_return found.error();
    result<std::uint64_t> done = std::uint64_t{0};
    if (found->extent.kind == extent_kind::data && found->extent.in_place) {
      const auto part = data.first(static_cast<std::size_t>(found->extent.length));
      const result<void> wrote =
          co_await image_.storage_at(found->extent.storage_index).write(found->extent.host_offset, part);
      if (!wrote) co_return wrote.error();
      done = part.size();
    } else {
      found->pin.reset();
      done = co_await write_new(offset, data);
    }
    if (!done) co_return done.error();
    offset += *done;
    data = data.subspan(static_cast<std::size_t>(*done));
  }
  co_return result<void>{};
}

task<result<void>> image_driver::zero(byte_range range, zero_mode mode) {
  const byte_range whole = whole_grains(range);
  if (whole.empty()) co_return co_await write_zeros(range);
  const result<void> zeroed = co_await image_.zero(whole, mode);
  const error_code unsupported = errc::not_supported;
  if (!zeroed && zeroed.error() == unsupported) co_return co_await write_zeros(range);
  if (!zeroed) co_return zeroed.error();
  const result<void> head = co_await write_zeros(range_between(range.offset, whole.offset));
  if (!head) co_return head.error();
  co_return co_await write_zeros(range_between(whole.end(), range.end()));
}

task<result<byte_range>> image_driver::discard(byte_range range) {
  const byte_range whole = whole_grains(range);
  if (whole.empty()) co_return whole;
  const result<void> discarded = co_await image_.discard(whole);
  if (!discarded) co_return discarded.error();
  co_return whole;
}

task<result<bool>> image_driver::write_encoded(byte_range unit, std::span<const std::byte> data,
                                               bool publish) {
  const std::optional<unit_encoding> form = image_.encoding();
  if (!form) co_return false;
  std::vector<std::byte> whole(static_cast<std::size_t>(form->unit_bytes));
  std::memcpy(whole.data(), data.data(), data.size());
  std::vector<std::byte> encoded(whole.size() - 1);
  const result<std::size_t> length = form->make_encoder()->encode(whole, encoded);
  if (!length) co_return result<bool>(boost::system::in_place_error, length.error());
  if (*length == 0) co_return false;
  const result<allocation> slot = co_await image_.allocate_encoded(unit, *length);
  const error_code unsupported = errc::not_supported;
  if (!slot && slot.error() == unsupported) co_return false;
  if (!slot) co_return result<bool>(boost::system::in_place_error, slot.error());
  const auto bytes = std::span<const std::byte>(encoded).first(*length);
  result<void> done = co_await image_.storage_at(slot->storage_index).write(slot->host_offset, bytes);
  if (done && publish) {
    done = co_await image_.publish(*slot);
  } else {
    const result<void> released = co_await image_.release(*slot);
    if (done && !released) done = released;
  }
  if (!done) co_return result<bool>(boost::system::in_place_error, done.error());
  co_return publish;
}

byte_range image_driver::whole_grains(byte_range range) const noexcept {
  const std::uint64_t grain = image_.grain();
  const std::uint64_t first = align_up(range.offset, grain);
  const bool at_end = range.end() == image_.virtual_size();
  const std::uint64_t last = at_end ? range.end() : align_down(range.end(), grain);
  return first < last ? range_between(first, last) : byte_range{range.offset, 0};
}

task<result<mapping>> image_driver::locate(byte_range range) {
  std::optional<result<mapping>> cached = image_.try_map(range, map_effort::locate);
  if (cached) co_return std::move(*cached);
  co_return co_await image_.map(range, map_effort::locate);
}

task<result<void>> image_driver::read_extent(const extent& from, std::uint64_t offset,
                                             std::span<std::byte> part) {
  switch (from.kind) {
    case extent_kind::data:
      co_return co_await image_.storage_at(from.storage_index).read(from.host_offset, part);
    case extent_kind::zero:
      std::ranges::fill(part, std::byte{0});
      break;
    case extent_kind::unallocated:
      read_backing(offset, part);
      break;
    case extent_kind::encoded:
      co_return co_await read_unit(from, offset, part);
  }
  co_return result<void>{};
}

void image_driver::read_backing(std::uint64_t offset, std::span<std::byte> part) const {
  std::ranges::fill(part, std::byte{0});
  if (offset >= backing_.size()) return;
  const std::size_t length = std::min(part.size(), backing_.size() - static_cast<std::size_t>(offset));
  std::memcpy(part.data(), backing_.data() + offset, length);
}

task<result<void>> image_driver::read_unit(const extent& from, std::uint64_t offset,
                                           std::span<std::byte> part) {
  std::vector<std::byte> encoded(static_cast<std::size_t>(from.unit.host.length));
  const result<void> got =
      co_await image_.storage_at(from.storage_index).read(from.unit.host.offset, encoded);
  if (!got) co_return got.error();
  std::vector<std::byte> decoded(static_cast<std::size_t>(from.unit.guest.length));
  const result<void> sound = from.unit.decode(encoded, decoded);
  if (!sound) co_return sound.error();
  std::memcpy(part.data(), decoded.data() + (offset - from.unit.guest.offset), part.size());
  co_return result<void>{};
}

task<result<std::uint64_t>> image_driver::write_new(std::uint64_t offset, std::span<const std::byte> data) {
  const byte_range asked{offset, data.size()};
  const result<allocation> reserved = co_await image_.allocate(asked);
  if (!reserved) co_return reserved.error();
  result<void> filled = co_await fill(*reserved, offset, data);
  if (filled) {
    filled = co_await image_.publish(*reserved);
  } else {
    const result<void> ignored = co_await image_.release(*reserved);
    static_cast<void>(ignored);
  }
  if (!filled) co_return filled.error();
  co_return reserved->guest.length - reserved->head.length - reserved->tail.length;
}

task<result<void>> image_driver::fill(const allocation& reserved, std::uint64_t offset,
                                      std::span<const std::byte> data) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(reserved.guest.length));
  const std::span<std::byte> all(bytes);
  const auto head = all.first(static_cast<std::size_t>(reserved.head.length));
  const auto tail = all.last(static_cast<std::size_t>(reserved.tail.length));
  const result<void> before = co_await read(reserved.head.offset, head);
  if (!before) co_return before.error();
  const result<void> behind = co_await read(reserved.tail.offset, tail);
  if (!behind) co_return behind.error();
  const std::size_t length = all.size() - head.size() - tail.size();
  std::memcpy(all.data() + (offset - reserved.guest.offset), data.data(), length);
  co_return co_await write_host(reserved, all);
}

task<result<void>> image_driver::write_host(const allocation& reserved, std::span<const std::byte> all) {
  storage& host = image_.storage_at(reserved.storage_index);
  if (!reserved.host_is_zero) co_return co_await host.write(reserved.host_offset, all);
  const std::vector<byte_range> runs = non_zero_runs(all, 512);
  for (const byte_range run : runs) {
    const auto part = all.subspan(static_cast<std::size_t>(run.offset), static_cast<std::size_t>(run.length));
    const result<void> wrote = co_await host.write(reserved.host_offset + run.offset, part);
    if (!wrote) co_return wrote.error();
  }
  co_return result<void>{};
}

task<result<void>> image_driver::write_zeros(byte_range range) {
  const std::vector<std::byte> zeros(static_cast<std::size_t>(std::min(range.length, MiB)));
  while (!range.empty()) {
    const std::uint64_t length = std::min<std::uint64_t>(range.length, zeros.size());
    const auto part = std::span(zeros).first(static_cast<std::size_t>(length));
    const result<void> wrote = co_await write(range.offset, part);
    if (!wrote) co_return wrote.error();
    range = range_between(range.offset + length, range.end());
  }
  co_return result<void>{};
}

}  // namespace weir::test
