#include "engine/copy/direct_step.hpp"

#include "engine/base/zero_scan.hpp"
#include "engine/block/bitmap_store.hpp"
#include "engine/block/gather.hpp"
#include "engine/storage/positional_io.hpp"

#include <utility>

namespace weir {
namespace {

using runs = std::vector<byte_range>;

/// Where the target's bytes are; nothing unless all of `range` may be written there by descriptor.
task<result<std::optional<mapping>>> find_place(image& target, byte_range range) {
  result<std::optional<mapping>> place = co_await find_in_place(target, range);
  if (!place || !*place) co_return place;
  const storage& behind = target.storage_at((*place)->extent.storage_index);
  if (!behind.descriptor() || !behind.capabilities().writable) place->reset();
  co_return place;
}

result<void> write_runs(int descriptor, std::uint64_t host_offset, std::span<const std::byte> bytes,
                        const runs& which) {
  for (const byte_range run : which) {
    const auto part = bytes.subspan(run.offset, run.length);
    const result<void> wrote = write_fully(descriptor, host_offset + run.offset, part);
    if (!wrote) return wrote;
  }
  return {};
}

}  // namespace

task<direct_step> copy_directly(disk& from, disk& to, byte_range range, std::span<std::byte> buffer,
                                std::uint64_t granularity) {
  image& target = *to.chain().active().image;
  bitmap_store* const bitmaps = target.bitmaps();
  if (bitmaps != nullptr && bitmaps->records()) co_return direct_step{};
  const result<std::optional<mapping>> place = co_await find_place(target, range);
  if (!place) co_return direct_step{.culprit = &to, .error = place.error()};
  if (!*place) co_return direct_step{};
  const depth_range everywhere;
  result<gather_plan> plan = co_await gather_plan::plan(from.chain(), range, everywhere);
  if (!plan) co_return direct_step{.culprit = &from, .error = plan.error()};
  const result<void> read = co_await plan->read_by_storage(buffer);
  if (!read) co_return direct_step{.culprit = &from, .error = read.error()};
  storage& behind = target.storage_at((*place)->extent.storage_index);
  const int descriptor = *behind.descriptor();
  const std::uint64_t host_offset = (*place)->extent.host_offset;
  auto work = [&, descriptor, host_offset]() -> direct_step {
    const result<void> got = plan->read_by_descriptor(buffer);
    if (!got) return {.culprit = &from, .error = got.error()};
    direct_step made{.done = true, .copied = non_zero_runs(buffer, granularity)};
    const result<void> wrote = write_runs(descriptor, host_offset, buffer, made.copied);
    if (!wrote) return {.culprit = &to, .error = wrote.error()};
    return made;
  };
  direct_step made = co_await from.resources().workers.run(std::move(work));
  for (byte_range& run : made.copied) {
    behind.note_descriptor_write({host_offset + run.offset, run.length});
    run.offset += range.offset;
  }
  co_return made;
}

}  // namespace weir
