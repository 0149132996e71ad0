#include "formats/qcow2/flusher.hpp"

#include "engine/base/endian.hpp"

#include <array>
#include <span>
#include <utility>

namespace weir::qcow2 {
namespace {

constexpr std::size_t largest_joined_write = 1 * MiB;

}  // namespace

struct flusher::frozen_state {
  std::vector<frozen_bytes> counts;
  std::vector<frozen_bytes> count_table;
  bool table_moved = false;
  std::uint64_t table_offset = 0;
  std::uint32_t table_clusters = 0;
  std::vector<frozen_bytes> l2;
  std::vector<frozen_bytes> l1;
};

flusher::flusher(executor context, image_tables& tables, refcounts& counts, allocator& clusters)
    : tables_(tables), counts_(counts), clusters_(clusters), finished_(std::move(context)) {}

bool flusher::has_dirty() const noexcept {
  return counts_.cache().has_dirty() || counts_.table().has_dirty() || tables_.l2.has_dirty() ||
         tables_.l1.has_dirty() || counts_.table_has_moved();
}

task<result<void>> flusher::flush() {
  const std::uint64_t wanted = passes_started_ + 1;
  while (passes_finished_ < wanted) {
    if (passes_started_ > passes_finished_) {
      co_await finished_.wait();
      continue;
    }
    ++passes_started_;
    const result<void> answer = co_await run_pass();
    finish(answer);
  }
  co_return last_answer_;
}

task<result<void>> flusher::change_header(header_plan plan) {
  while (passes_started_ > passes_finished_) co_await finished_.wait();
  ++passes_started_;
  const result<void> flushed = co_await run_pass();
  result<void> answer = flushed;
  if (answer) answer = co_await write_header(plan);
  finish(flushed);
  co_return answer;
}

task<result<void>> flusher::change_backing(std::optional<backing_reference> wanted) {
  const header_plan plan = [&wanted](std::span<const std::byte> cluster, const header& current) {
    return plan_backing_change(cluster, current, wanted);
  };
  const result<void> changed = co_await change_header(plan);
  if (changed) tables_.head.backing = wanted;
  co_return changed;
}

task<result<void>> flusher::write_header(const header_plan& plan) {
  std::vector<std::byte> cluster(static_cast<std::size_t>(tables_.shape.cluster_size()));
  result<void> answer = co_await tables_.file.read(0, cluster);
  if (!answer) co_return answer;
  const outcome<header> current = parse_header(cluster, tables_.file.size(), tables_.file.location());
  if (!current) co_return current.error().code;
  const result<std::vector<header_step>> steps = plan(cluster, *current);
  if (!steps) co_return steps.error();
  for (const header_step& step : *steps) {
    answer = co_await tables_.file.write(step.offset, step.bytes);
    if (answer) answer = co_await tables_.file.flush();
    if (!answer) co_return answer;
  }
  co_return answer;
}

void flusher::finish(result<void> answer) {
  last_answer_ = answer;
  passes_finished_ = passes_started_;
  finished_.notify_all();
}

task<result<void>> flusher::run_pass() {
  frozen_state taken;
  // No suspension in this block: one instant for all tables.
  taken.counts = counts_.cache().freeze();
  taken.table_moved = counts_.table_has_moved();
  taken.table_offset = counts_.table().offset();
  taken.table_clusters = counts_.table_clusters();
  taken.count_table = counts_.table().freeze();
  taken.l2 = tables_.l2.freeze();
  taken.l1 = tables_.l1.freeze();
  clusters_.freeze();

  const result<void> answer = co_await write_pass(taken);
  const bool written = answer.has_value();
  counts_.cache().settle(written);
  counts_.table().settle(written);
  tables_.l2.settle(written);
  tables_.l1.settle(written);
  clusters_.settle(written);
  co_return answer;
}

task<result<void>> flusher::write_pass(const frozen_state& taken) {
  result<void> answer;
  if (tables_.data_file != nullptr) answer = co_await tables_.data_file->flush();
  if (answer) answer = co_await write_all(taken.counts);
  if (answer) answer = co_await tables_.file.flush();
  if (answer) answer = co_await write_refcount_table(taken);
  if (answer) answer = co_await write_pointers(taken);
  co_return answer;
}

task<result<void>> flusher::write_refcount_table(const frozen_state& taken) {
  if (taken.count_table.empty() && !taken.table_moved) co_return result<void>{};
  result<void> answer = co_await write_all(taken.count_table);
  if (answer) answer = co_await tables_.file.flush();
  if (!answer || !taken.table_moved) co_return answer;
  std::array<std::byte, 12> place{};
  store_big(place.data(), taken.table_offset);
  store_big(place.data() + 8, taken.table_clusters);
  answer = co_await tables_.file.write(field::refcount_table, place);
  if (answer) answer = co_await tables_.file.flush();
  if (!answer) co_return answer;
  tables_.head.refcount_table_offset = taken.table_offset;
  tables_.head.refcount_table_clusters = taken.table_clusters;
  co_return answer;
}

task<result<void>> flusher::write_pointers(const frozen_state& taken) {
  if (taken.l2.empty() && taken.l1.empty()) co_return result<void>{};
  result<void> answer = co_await write_all(taken.l2);
  if (answer) answer = co_await write_all(taken.l1);
  if (answer) answer = co_await tables_.file.flush();
  co_return answer;
}

/// Adjacent parts (they are in ascending order) go out in one write.
task<result<void>> flusher::write_all(const std::vector<frozen_bytes>& parts) {
  std::vector<std::byte> joined;
  for (std::size_t first = 0; first < parts.size();) {
    std::size_t last = first + 1;
    std::size_t length = parts[first].bytes->size();
    while (last < parts.size() && parts[last].offset == parts[first].offset + length &&
           length + parts[last].bytes->size() <= largest_joined_write) {
      length += parts[last++].bytes->size();
    }
    std::span<const std::byte> bytes = *parts[first].bytes;
    if (last - first > 1) {
      joined.clear();
      for (std::size_t at = first; at < last; ++at) {
        joined.insert(joined.end(), parts[at].bytes->begin(), parts[at].bytes->end());
      }
      bytes = joined;
    }
    const result<void> wrote = co_await tables_.file.write(parts[first].offset, bytes);
    if (!wrote) co_return wrote.error();
    first = last;
  }
  co_return result<void>{};
}

}  // namespace weir::qcow2
