#include "formats/qcow2/allocator.hpp"

#include <algorithm>
#include <cerrno>
#include <limits>

namespace weir::qcow2 {
namespace {

constexpr std::size_t most_listed_runs = 65536;
constexpr int listed_runs_tried = 16;

bool is_no_space(const error_code& code) {
  return code == errno_code(ENOSPC);
}

}  // namespace

allocator::allocator(image_tables& tables, refcounts& counts, pin_ledger& pins)
    : tables_(tables), counts_(counts), pins_(pins), shape_(tables.shape) {
  const bool grows = tables.file.capabilities().can_grow;
  never_written_from_ =
      grows ? shape_.clusters_for(tables.file.size()) : std::numeric_limits<std::uint64_t>::max();
}

task<result<allocator::reservation>> allocator::reserve(std::uint64_t most) {
  result<cluster_run> run = co_await find_run(most);
  if (!run) co_return run.error();
  const result<void> sound = check_place(*run);
  if (!sound) co_return sound.error();
  const result<void> counted = co_await counts_.set_run(*run, 1);
  if (!counted) co_return counted.error();
  const bool reads_zero = run->first >= never_written_from_;
  never_written_from_ = std::max(never_written_from_, run->end());
  co_return reservation{*run, reads_zero};
}

task<result<cluster_run>> allocator::find_run(std::uint64_t most) {
  if (has_collectable()) {
    const result<void> ignored = co_await collect();  // leaves more for later, harms nothing
    static_cast<void>(ignored);
  }
  result<cluster_run> run = co_await find_listed(most, false);
  if (!run || run->count > 0) co_return run;
  run = co_await find_behind_cursor(most);
  if (run || !is_no_space(run.error())) co_return run;
  const result<cluster_run> remnant = co_await find_listed(most, true);
  if (!remnant || remnant->count > 0) co_return remnant;
  if (!list_overflowed_) co_return run;
  list_overflowed_ = false;
  cursor_ = 0;
  co_return co_await find_behind_cursor(most);
}

/// A listed run; empty if none is long enough. What was taken of it by other ways is forgotten.
task<result<cluster_run>> allocator::find_listed(std::uint64_t most, bool any_length) {
  auto candidate = listed_.begin();
  for (int tried = 0; candidate != listed_.end() && (any_length || tried < listed_runs_tried); ++tried) {
    const cluster_run listed{candidate->first, candidate->second};
    if (!any_length && listed.count < most) {
      ++candidate;
      continue;
    }
    candidate = listed_.erase(candidate);
    const result<cluster_run> found = co_await counts_.find_free(listed.first, std::min(most, listed.count));
    if (!found) co_return found.error();
    if (found->first != listed.first || found->count == 0) {
      if (found->first >= listed.end()) continue;
      list({found->first, listed.end() - found->first});
      candidate = listed_.upper_bound(listed.first);
      continue;
    }
    if (found->end() < listed.end()) list({found->end(), listed.end() - found->end()});
    co_return *found;
  }
  co_return cluster_run{};
}

task<result<cluster_run>> allocator::find_behind_cursor(std::uint64_t most) {
  while (true) {
    const bool grows = tables_.file.capabilities().can_grow;
    if (!grows && shape_.offset_of(cursor_ + 1) > tables_.file.size()) co_return errno_code(ENOSPC);
    if (!counts_.covers(cursor_)) {
      const result<refcounts::growth> grown = co_await counts_.cover(cursor_);
      if (!grown) co_return grown.error();
      cursor_ = grown->taken.end();
      never_written_from_ = std::max(never_written_from_, cursor_);
      drop(grown->replaced_table);
      continue;
    }
    const result<cluster_run> found = co_await counts_.find_free(cursor_, most);
    if (!found) co_return found.error();
    cursor_ = found->end();
    if (found->count > 0) co_return *found;
  }
}

/// Clips the run to a storage that cannot grow, and refuses what is metadata.
result<void> allocator::check_place(cluster_run& run) const {
  if (!tables_.file.capabilities().can_grow) {
    const std::uint64_t in_file = shape_.cluster_of(tables_.file.size());
    if (run.first >= in_file) return errno_code(ENOSPC);
    run.count = std::min(run.count, in_file - run.first);
  }
  const byte_range host{shape_.offset_of(run.first), run.count << shape_.cluster_bits};
  if (host.end() > offset_mask) return errno_code(EFBIG);
  if (tables_.metadata.clear_prefix(host) != host.length) return errc::corrupt_image;
  return {};
}

task<result<void>> allocator::give_back(cluster_run run) {
  const result<void> cleared = co_await counts_.set_run(run, 0);
  if (!cleared) co_return cleared.error();
  if (run.end() == cursor_) {
    cursor_ = run.first;
  } else {
    list(run);
  }
  co_return result<void>{};
}

void allocator::drop(cluster_run run) {
  for (std::uint64_t cluster = run.first; cluster < run.end(); ++cluster) dropped_.push_back(cluster);
}

void allocator::freeze() {
  frozen_.swap(dropped_);
  // Every pin that may name one of these was taken before now.
  if (!frozen_.empty()) frozen_retired_ = pins_.retire();
}

void allocator::settle(bool written) {
  if (frozen_.empty()) return;
  if (written) {
    settled_.push_back({frozen_retired_, std::move(frozen_)});
  } else {
    dropped_.insert(dropped_.end(), frozen_.begin(), frozen_.end());
  }
  frozen_.clear();
}

task<result<void>> allocator::collect() {
  while (has_collectable()) {
    batch ready = std::move(settled_.front());
    settled_.pop_front();
    std::ranges::sort(ready.clusters);
    const result<void> done = co_await release_references(ready.clusters);
    if (!done) {
      settled_.push_front(std::move(ready));
      co_return done.error();
    }
  }
  co_return result<void>{};
}

/// Takes the references off one by one; `clusters` keeps those not yet released.
task<result<void>> allocator::release_references(std::vector<std::uint64_t>& clusters) {
  cluster_run free;
  result<void> answer;
  std::size_t done = 0;
  for (; done < clusters.size(); ++done) {
    const std::uint64_t cluster = clusters[done];
    const result<std::uint64_t> count = co_await counts_.get(cluster);
    if (!count) {
      answer = count.error();
      break;
    }
    // A count of 0 is damage that cannot be made good here; metadata is never given away.
    const byte_range host{shape_.offset_of(cluster), shape_.cluster_size()};
    if (*count == 0) continue;
    if (*count == 1 && tables_.metadata.clear_prefix(host) != host.length) continue;
    answer = co_await counts_.set(cluster, *count - 1);
    if (!answer) break;
    if (*count > 1) continue;
    if (free.count > 0 && free.end() != cluster) {
      co_await make_free(free);
      free = {};
    }
    free = free.count == 0 ? cluster_run{cluster, 1} : cluster_run{free.first, free.count + 1};
  }
  clusters.erase(clusters.begin(), clusters.begin() + static_cast<std::ptrdiff_t>(done));
  if (free.count > 0) co_await make_free(free);
  co_return answer;
}

task<void> allocator::make_free(cluster_run run) {
  const byte_range freed{shape_.offset_of(run.first), run.count << shape_.cluster_bits};
  if (freed.contains(next_byte_)) next_byte_ = 0;
  if (tables_.file.capabilities().can_punch) {
    const byte_range host{shape_.offset_of(run.first), run.count << shape_.cluster_bits};
    const result<void> advised = co_await tables_.file.discard(host);  // advice: refusing it costs only space
    static_cast<void>(advised);
  }
  list(run);
}

/// Joins the run with its neighbours in the list.
void allocator::list(cluster_run run) {
  const auto next = listed_.lower_bound(run.first);
  if (next != listed_.begin()) {
    const auto before = std::prev(next);
    if (before->first + before->second == run.first) {
      run = {before->first, before->second + run.count};
      listed_.erase(before);
    }
  }
  if (next != listed_.end() && next->first == run.end()) {
    run.count += next->second;
    listed_.erase(next);
  }
  if (listed_.size() >= most_listed_runs) {
    list_overflowed_ = true;
    return;
  }
  listed_.emplace(run.first, run.count);
}

}  // namespace weir::qcow2
