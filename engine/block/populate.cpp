#include "engine/block/populate.hpp"

#include "engine/block/gather.hpp"
#include "engine/block/grain_planner.hpp"

#include <algorithm>

namespace weir {
namespace {

/// Size of one copied piece: large enough to keep two workers busy, small against the 4 MiB a step may hold.
constexpr std::uint64_t piece_bytes = 1 * MiB;

grain_action action_for(const located_extent& below) {
  switch (below.found.extent.kind) {
    case extent_kind::data:
    case extent_kind::encoded:
      return grain_action::copy;
    case extent_kind::zero:
      return grain_action::mark_zero;
    case extent_kind::unallocated:
      break;
  }
  return grain_action::leave;
}

/// One range of one chain being planned or copied.
class population {
 public:
  population(write_context context, std::size_t base_depth)
      : context_(context),
        base_depth_(std::min(base_depth, context.layers.depth())),
        to_the_bottom_(base_depth_ == context.layers.depth()) {}

  task<result<std::vector<grain_run>>> plan(byte_range range, populated& tally);
  task<result<grain_run>> look(byte_range range);
  task<result<void>> copy(byte_range range, populated& tally);
  task<result<void>> mark_zero(byte_range range, populated& tally);

 private:
  task<result<void>> copy_piece(byte_range range, populated& tally);
  task<result<void>> write_zeros(byte_range range);
  image& active() const { return *context_.layers.active().image; }

  write_context context_;
  std::size_t base_depth_;
  bool to_the_bottom_;
};

/// What to do with the first run of `range`; any alignment.
task<result<grain_run>> population::look(byte_range range) {
  const depth_range only_active{0, 1};
  const result<located_extent> here = co_await context_.layers.lookup(range, only_active, map_effort::status);
  if (!here) co_return here.error();
  range.length = here->length();
  if (here->owner != nullptr || context_.layers.depth() == 1) co_return grain_run{range, grain_action::leave};
  const depth_range above_base{1, base_depth_};
  const result<located_extent> below = co_await context_.layers.lookup(range, above_base, map_effort::status);
  if (!below) co_return below.error();
  range.length = below->length();
  grain_action action = action_for(*below);
  if (action == grain_action::mark_zero && to_the_bottom_) action = grain_action::leave;
  co_return grain_run{range, action};
}

task<result<std::vector<grain_run>>> population::plan(byte_range range, populated& tally) {
  grain_planner planner(active().grain(), context_.layers.size());
  while (!range.empty()) {
    const result<grain_run> here = co_await look(range);
    if (!here) co_return here.error();
    if (here->action == grain_action::leave) tally.skipped_bytes += here->range.length;
    planner.add(here->range, here->action);
    range = range_between(here->range.end(), range.end());
  }
  co_return planner.take();
}

task<result<void>> population::copy_piece(byte_range range, populated& tally) {
  const buffer_lease buffer = co_await context_.fill_buffers.acquire(range.length);
  const result<std::vector<byte_range>> non_zero =
      co_await gather_and_scan(context_.resources, context_.layers, range, buffer.bytes(), active().grain());
  if (!non_zero) co_return non_zero.error();
  std::vector<placed_run> runs;
  std::uint64_t done_to = range.offset;
  for (const byte_range run : *non_zero) {
    const byte_range guest{range.offset + run.offset, run.length};
    const result<void> marked = co_await mark_zero(range_between(done_to, guest.offset), tally);
    if (!marked) co_return marked;
    runs.push_back({guest, buffer.bytes().subspan(run.offset, run.length)});
    tally.copied_bytes += run.length;
    done_to = guest.end();
  }
  const result<void> marked = co_await mark_zero(range_between(done_to, range.end()), tally);
  if (!marked) co_return marked;
  co_return co_await place_runs(context_, std::move(runs));
}

task<result<void>> population::copy(byte_range range, populated& tally) {
  if (active().grain() > piece_bytes) {
    const result<grain_content> content = co_await copy_huge_grain(context_, range);
    if (!content) co_return content.error();
    if (*content == grain_content::zero) co_return co_await mark_zero(range, tally);
    tally.copied_bytes += range.length;
    co_return result<void>{};
  }
  while (!range.empty()) {
    const byte_range piece{range.offset, std::min(range.length, piece_bytes)};
    const result<void> copied = co_await copy_piece(piece, tally);
    if (!copied) co_return copied;
    range = range_between(piece.end(), range.end());
  }
  co_return result<void>{};
}

task<result<void>> population::write_zeros(byte_range range) {
  const std::uint64_t step = std::max(active().grain(), std::min<std::uint64_t>(piece_bytes, range.length));
  const std::vector<std::byte> zeros(step);
  while (!range.empty()) {
    const byte_range piece{range.offset, std::min(range.length, step)};
    std::vector<placed_run> runs{{piece, std::span(zeros).first(piece.length)}};
    const result<void> placed = co_await place_runs(context_, std::move(runs));
    if (!placed) co_return placed;
    range = range_between(piece.end(), range.end());
  }
  co_return result<void>{};
}

task<result<void>> population::mark_zero(byte_range range, populated& tally) {
  if (range.empty()) co_return result<void>{};
  tally.zero_bytes += range.length;
  const result<void> marked = co_await active().zero(range, zero_mode::may_punch);
  if (marked || marked.error() != errc::not_supported) co_return marked;
  // Without zero clusters (qcow2 version 2): unallocated reads as zero once nothing is below.
  if (to_the_bottom_) co_return result<void>{};
  co_return co_await write_zeros(range);
}

}  // namespace

task<result<populated>> populate(write_context context, byte_range range, std::size_t base_depth) {
  population work(context, base_depth);
  populated tally;
  const result<std::vector<grain_run>> runs = co_await work.plan(range, tally);
  if (!runs) co_return runs.error();
  for (const grain_run& run : *runs) {
    result<void> done;
    if (run.action == grain_action::copy) done = co_await work.copy(run.range, tally);
    if (run.action == grain_action::mark_zero) done = co_await work.mark_zero(run.range, tally);
    if (!done) co_return done.error();
  }
  co_return tally;
}

task<result<byte_range>> find_to_populate(write_context context, byte_range within, std::size_t base_depth,
                                          std::uint64_t longest) {
  population work(context, base_depth);
  const std::uint64_t grain = context.layers.active().image->grain();
  longest = std::max(align_down(longest, grain), grain);
  byte_range found{within.end(), 0};
  unsigned steps = 0;
  while (!within.empty()) {
    const result<grain_run> here = co_await work.look(within);
    if (!here) co_return here.error();
    within = range_between(here->range.end(), within.end());
    if (here->action != grain_action::leave) {
      const std::uint64_t first = found.empty() ? align_down(here->range.offset, grain) : found.offset;
      found = range_between(first, std::min(align_up(here->range.end(), grain), context.layers.size()));
      if (found.length >= longest) break;
    } else if (!found.empty() && here->range.end() >= found.end()) {
      break;
    }
    // Cached metadata answers without suspending: let others run now and then.
    if (++steps % looks_per_turn == 0) co_await next_turn(context.resources.context);
  }
  found.length = std::min(found.length, longest);
  co_return found;
}

}  // namespace weir
