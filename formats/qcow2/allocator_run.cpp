// Runs of an exact length, for tables: rarely asked for, so that a search may take its time.
#include "formats/qcow2/allocator.hpp"

#include <algorithm>
#include <cerrno>

namespace weir::qcow2 {

task<result<cluster_run>> allocator::reserve_run(std::uint64_t count) {
  result<cluster_run> run = errno_code(ENOSPC);
  // A run crosses no refcount block that is found there, and a new block takes one cluster of what it describes.
  if (count < shape_.refcounts_per_block()) {
    run = co_await find_exact(cursor_, count);
    if (!run && run.error() == errno_code(ENOSPC)) run = co_await find_exact(0, count);
  } else {
    run = co_await find_beyond(count);
  }
  if (!run) co_return run;
  const std::uint64_t found = run->count;
  const result<void> sound = check_place(*run);
  if (!sound) co_return sound.error();
  if (run->count != found) co_return errno_code(ENOSPC);
  const result<void> counted = co_await counts_.set_run(*run, 1);
  if (!counted) co_return counted.error();
  never_written_from_ = std::max(never_written_from_, run->end());
  co_return run;
}

/// Shorter runs on the way are listed, since the cursor passes over them.
task<result<cluster_run>> allocator::find_exact(std::uint64_t from, std::uint64_t count) {
  const bool grows = tables_.file.capabilities().can_grow;
  while (true) {
    if (!grows && shape_.offset_of(from + count) > tables_.file.size()) co_return errno_code(ENOSPC);
    if (!counts_.covers(from)) {
      const result<refcounts::growth> grown = co_await counts_.cover(from);
      if (!grown) co_return grown.error();
      from = take_growth(*grown);
      continue;
    }
    const result<cluster_run> found = co_await counts_.find_free(from, count);
    if (!found) co_return found.error();
    const bool passes_cursor = found->end() > cursor_;
    if (found->count == count) {
      if (passes_cursor) cursor_ = found->end();
      co_return *found;
    }
    if (found->count > 0 && passes_cursor) list(*found);
    from = found->end();
    cursor_ = std::max(cursor_, from);
  }
}

/// Behind everything that is described, with the blocks that describe it in front of it.
task<result<cluster_run>> allocator::find_beyond(std::uint64_t count) {
  const result<refcounts::growth> grown = co_await counts_.cover_beyond(count);
  if (!grown) co_return grown.error();
  co_return cluster_run{take_growth(*grown), count};
}

std::uint64_t allocator::take_growth(const refcounts::growth& grown) {
  never_written_from_ = std::max(never_written_from_, grown.taken.end());
  drop(grown.replaced_table);
  return grown.taken.end();
}

task<result<void>> allocator::release_now(std::vector<std::uint64_t>& clusters) {
  std::ranges::sort(clusters);
  return release_references(clusters);
}

}  // namespace weir::qcow2
