#include "formats/qcow2/refcounts.hpp"

#include "formats/qcow2/refcount_codec.hpp"

#include <algorithm>
#include <cassert>
#include <cerrno>
#include <span>
#include <vector>

namespace weir::qcow2 {

refcounts::refcounts(executor context, image_tables& tables, std::size_t cache_bytes)
    : tables_(tables),
      shape_(tables.shape),
      cache_(std::move(context), tables.file, tables.shape.slice_size(), cache_bytes),
      table_(tables.head.refcount_table_offset) {}

task<outcome<void>> refcounts::load(std::string_view location) {
  const header& head = tables_.head;
  if (head.refcount_table_clusters == 0) {
    co_return make_failure(errc::corrupt_image, location, "there is no refcount table");
  }
  const std::uint64_t bytes = std::uint64_t{head.refcount_table_clusters} << shape_.cluster_bits;
  const result<void> got = co_await table_.load(tables_.file, bytes / entry_bytes);
  if (!got) co_return make_failure(got.error(), location);
  std::vector<std::uint64_t> blocks;
  for (const std::uint64_t raw : table_.entries()) {
    if (raw == 0) continue;
    const bool aligned = (raw & ~offset_mask) == 0 && is_aligned(raw, shape_.cluster_size());
    const byte_range block{raw, shape_.cluster_size()};
    if (!aligned || raw >= tables_.file.size() || tables_.metadata.clear_prefix(block) != block.length) {
      co_return make_failure(
          errc::corrupt_image, location,
          "refcount block at " + hexadecimal(raw) + " is misplaced; repair the image with weir check -r all");
    }
    blocks.push_back(raw);
  }
  tables_.metadata.refcount_blocks = cluster_set(std::move(blocks));
  if (tables_.metadata.refcount_blocks.has_duplicates()) {
    co_return make_failure(errc::corrupt_image, location, "the refcount table names a block twice");
  }
  co_return outcome<void>{};
}

std::uint64_t refcounts::slice_of(std::uint64_t cluster) const noexcept {
  const std::uint64_t within = cluster % shape_.refcounts_per_block();
  return block_offset(cluster / shape_.refcounts_per_block()) +
         within / shape_.refcounts_per_slice() * shape_.slice_size();
}

task<result<void>> refcounts::fetch(std::uint64_t slice) {
  if (cache_.find(slice) != nullptr) co_return result<void>{};
  co_return co_await cache_.load(slice);
}

task<result<std::uint64_t>> refcounts::get(std::uint64_t cluster) {
  if (!covers(cluster)) co_return std::uint64_t{0};
  const std::uint64_t slice = slice_of(cluster);
  const result<void> there = co_await fetch(slice);
  if (!there) co_return there.error();
  co_return load_refcount(cache_.find(slice), index_in_slice(cluster), shape_.refcount_order);
}

task<result<void>> refcounts::set(std::uint64_t cluster, std::uint64_t value) {
  return set_run({cluster, 1}, value);
}

task<result<void>> refcounts::set_run(cluster_run run, std::uint64_t value) {
  assert(value <= shape_.highest_refcount());
  while (run.count > 0) {
    const std::uint64_t slice = slice_of(run.first);
    const result<void> there = co_await fetch(slice);
    if (!there) co_return there.error();
    std::byte* counts = cache_.find_for_change(slice);
    const std::uint64_t index = index_in_slice(run.first);
    const std::uint64_t step = std::min(run.count, shape_.refcounts_per_slice() - index);
    for (std::uint64_t at = index; at < index + step; ++at)
      store_refcount(counts, at, shape_.refcount_order, value);
    run = {run.first + step, run.count - step};
  }
  co_return result<void>{};
}

task<result<cluster_run>> refcounts::find_free(std::uint64_t from, std::uint64_t most) {
  const std::uint64_t block_end = align_up(from + 1, shape_.refcounts_per_block());
  cluster_run run{from, 0};
  while (run.end() < block_end && run.count < most) {
    const std::uint64_t slice = slice_of(run.end());
    const result<void> there = co_await fetch(slice);
    if (!there) co_return there.error();
    const std::byte* counts = cache_.find(slice);
    const std::uint64_t slice_end = align_up(run.end() + 1, shape_.refcounts_per_slice());
    while (run.end() < slice_end && run.count < most) {
      if (load_refcount(counts, index_in_slice(run.end()), shape_.refcount_order) == 0) {
        ++run.count;
      } else if (run.count > 0) {
        co_return run;
      } else {
        ++run.first;
      }
    }
  }
  co_return run;
}

task<result<refcounts::growth>> refcounts::cover(std::uint64_t cluster) {
  if (cluster / shape_.refcounts_per_block() < table_.size()) return add_block(cluster);
  return grow(cluster, 0);
}

result<void> refcounts::check_place(cluster_run run) const {
  const byte_range host{shape_.offset_of(run.first), run.count << shape_.cluster_bits};
  if (host.end() > offset_mask) return errno_code(EFBIG);
  if (tables_.metadata.clear_prefix(host) != host.length) return errc::corrupt_image;
  const bool grows = tables_.file.capabilities().can_grow;
  if (!grows && !fits(host.offset, host.length, tables_.file.size())) return errno_code(ENOSPC);
  return {};
}

/// Makes zeroed clusters from `at_cluster` on the blocks of the table's next indexes. Like count_fresh it does
/// no I/O: once the zeros are written nothing may fail half-way.
void refcounts::adopt_blocks(std::uint64_t first_index, std::uint64_t count, std::uint64_t at_cluster) {
  for (std::uint64_t index = 0; index < count; ++index) {
    const std::uint64_t block = shape_.offset_of(at_cluster + index);
    table_.set(first_index + index, block);
    tables_.metadata.refcount_blocks.insert(block);
  }
}

/// Counts one reference on each cluster of `run`, in blocks that have just been adopted.
void refcounts::count_fresh(cluster_run run) {
  for (std::uint64_t cluster = run.first; cluster < run.end(); ++cluster) {
    const std::uint64_t slice = slice_of(cluster);
    if (cache_.find(slice) == nullptr) cache_.insert_zero(slice);
    store_refcount(cache_.find_for_change(slice), index_in_slice(cluster), shape_.refcount_order, 1);
  }
}

task<result<refcounts::growth>> refcounts::add_block(std::uint64_t cluster) {
  const cluster_run own{cluster, 1};
  const result<void> sound = check_place(own);
  if (!sound) co_return sound.error();
  const byte_range host{shape_.offset_of(cluster), shape_.cluster_size()};
  const result<void> zeroed = co_await write_zeros(tables_.file, host);
  if (!zeroed) co_return zeroed.error();
  cache_.forget(host);
  adopt_blocks(cluster / shape_.refcounts_per_block(), 1, cluster);
  count_fresh(own);
  co_return growth{own, {}};
}

task<result<refcounts::growth>> refcounts::cover_beyond(std::uint64_t count) {
  std::uint64_t described = table_.size();
  while (described > 0 && block_offset(described - 1) == 0) --described;
  return grow(described * shape_.refcounts_per_block(), count);
}

/// How many clusters are taken from `cluster` on: a bigger table, unless the old one is long enough, and the blocks
/// that describe their own place and `more` clusters behind it.
refcounts::growth_plan refcounts::plan_growth(std::uint64_t cluster, std::uint64_t more) const {
  const std::uint64_t per_block = shape_.refcounts_per_block();
  const std::uint64_t first_index = cluster / per_block;
  growth_plan plan{.table_clusters = 0, .blocks = 1};
  while (true) {
    const std::uint64_t last_index = (cluster + plan.table_clusters + plan.blocks + more - 1) / per_block;
    const bool long_enough = plan.table_clusters == 0 && last_index < table_.size();
    const std::uint64_t entries = std::max(last_index + 1, table_.size() + table_.size() / 2);
    const growth_plan next{long_enough ? 0 : shape_.clusters_for(entries * entry_bytes),
                           last_index - first_index + 1};
    if (next == plan) return plan;
    plan = next;
  }
}

task<result<refcounts::growth>> refcounts::grow(std::uint64_t cluster, std::uint64_t more) {
  const growth_plan plan = plan_growth(cluster, more);
  const std::uint64_t entries = (plan.table_clusters << shape_.cluster_bits) / entry_bytes;
  if (entries * entry_bytes > largest_refcount_table_bytes) co_return errno_code(EFBIG);
  const cluster_run taken{cluster, plan.table_clusters + plan.blocks};
  const result<void> sound = check_place({cluster, taken.count + more});
  if (!sound) co_return sound.error();
  const byte_range host{shape_.offset_of(cluster), taken.count << shape_.cluster_bits};
  const result<void> zeroed = co_await write_zeros(tables_.file, host);
  if (!zeroed) co_return zeroed.error();
  cache_.forget(host);
  cluster_run old_table;
  if (plan.table_clusters > 0) {
    old_table = {shape_.cluster_of(table_.offset()), table_clusters()};
    table_.move(host.offset, entries);
    tables_.metadata.refcount_table = {host.offset, plan.table_clusters << shape_.cluster_bits};
  }
  adopt_blocks(cluster / shape_.refcounts_per_block(), plan.blocks, cluster + plan.table_clusters);
  count_fresh(taken);
  co_return growth{taken, old_table};
}

task<result<void>> write_zeros(storage& into, byte_range range) {
  const std::vector<std::byte> zeros(
      static_cast<std::size_t>(std::min<std::uint64_t>(range.length, 256 * KiB)));
  while (!range.empty()) {
    const std::uint64_t step = std::min<std::uint64_t>(range.length, zeros.size());
    const auto part = std::span(zeros).first(static_cast<std::size_t>(step));
    const result<void> wrote = co_await into.write(range.offset, part);
    if (!wrote) co_return wrote.error();
    range = {range.offset + step, range.length - step};
  }
  co_return result<void>{};
}

}  // namespace weir::qcow2
