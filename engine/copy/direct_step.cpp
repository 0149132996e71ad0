#include "engine/copy/direct_step.hpp"

#include "engine/base/zero_scan.hpp"
#include "engine/block/bitmap_store.hpp"
#include "engine/block/gather.hpp"
#include "engine/storage/positional_io.hpp"

#include <algorithm>
#include <utility>

namespace weir {
namespace {

using runs = std::vector<byte_range>;

/// Blocks of the file systems that share them are at most so large by default.
constexpr std::uint64_t clone_unit = 4096;

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

/// What may be tried to clone to `host_offset`.
std::optional<std::vector<gather_plan::raw_run>> clonable_runs(const gather_plan& plan,
                                                               std::uint64_t host_offset) {
  auto found = plan.raw_runs();
  if (!found || found->empty()) return std::nullopt;
  for (const gather_plan::raw_run& run : *found) {
    const std::uint64_t all = run.part.length | run.host_offset | (host_offset + run.part.offset);
    if (!is_aligned(all, clone_unit)) return std::nullopt;
  }
  return found;
}

bool clone_runs(int descriptor, std::uint64_t host_offset, const std::vector<gather_plan::raw_run>& which) {
  return std::ranges::all_of(which, [&](const gather_plan::raw_run& run) {
    return clone_range(run.descriptor, run.host_offset, descriptor, host_offset + run.part.offset,
                       run.part.length);
  });
}

/// What a worker does. Blocking; any thread.
struct step_work {
  const gather_plan& plan;
  int descriptor;
  std::uint64_t host_offset;
  std::span<std::byte> buffer;
  std::uint64_t granularity;

  /// False, and why not, where nothing can be cloned.
  bool clone(direct_step& made) const {
    const auto clonable = clonable_runs(plan, host_offset);
    if (!clonable) return false;
    made.refuses_clones = !clone_runs(descriptor, host_offset, *clonable);
    if (made.refuses_clones) return false;
    for (const gather_plan::raw_run& run : *clonable) made.copied.push_back(run.part);
    return true;
  }
};

}  // namespace

task<direct_step> copy_directly(disk& from, disk& to, byte_range range, std::span<std::byte> buffer,
                                std::uint64_t granularity, bool may_clone) {
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
  const step_work what{*plan, descriptor, host_offset, buffer, granularity};
  auto work = [&]() -> direct_step {
    direct_step made{.done = true};
    if (may_clone && what.clone(made)) return made;
    const result<void> got = plan->read_by_descriptor(buffer);
    if (!got) return {.culprit = &from, .error = got.error()};
    made.copied = non_zero_runs(buffer, granularity);
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
