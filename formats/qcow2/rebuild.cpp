#include "formats/qcow2/rebuild.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/refcount_codec.hpp"

#include <algorithm>
#include <string>

namespace weir::qcow2 {

failure count_rebuild::refuse(std::string_view why) const {
  std::string clause = "its refcounts have to be written anew, but ";
  return make_failure(errc::corrupt_image, survey_.file().location(), clause.append(why));
}

task<outcome<void>> count_rebuild::run() {
  const outcome<void> planned = plan();
  if (!planned) co_return planned;
  old_.forget_places();
  result<void> wrote = co_await write_blocks();
  if (wrote) wrote = co_await write_table();
  if (wrote) wrote = co_await survey_.file().flush();
  if (wrote) wrote = co_await switch_header();
  if (!wrote) co_return make_failure(wrote.error(), survey_.file().location());
  co_return outcome<void>{};
}

std::vector<std::uint64_t> count_rebuild::needed_blocks(std::uint64_t new_clusters) const {
  const std::uint64_t per_block = shape_.refcounts_per_block();
  std::vector<std::uint64_t> needed;
  for (auto at = survey_.counts.next(0); at; at = survey_.counts.next((needed.back() + 1) * per_block)) {
    needed.push_back(*at / per_block);
  }
  for (std::uint64_t index = 0; index < old_.block_count() && !survey_.complete; ++index) {
    if (old_.block(index) != 0) needed.push_back(index);
  }
  const std::uint64_t last = (place_ + new_clusters - 1) / per_block;
  for (std::uint64_t index = place_ / per_block; new_clusters > 0 && index <= last; ++index) {
    needed.push_back(index);
  }
  std::ranges::sort(needed);
  const auto repeated = std::ranges::unique(needed);
  needed.erase(repeated.begin(), repeated.end());
  return needed;
}

/// A run of clusters that nobody uses.
bool count_rebuild::find_place(std::uint64_t clusters) {
  const std::uint64_t file_clusters = survey_.rules().file_clusters;
  if (survey_.file().capabilities().can_grow) {
    place_ = file_clusters;
    return true;
  }
  const std::uint64_t whole_clusters = shape_.cluster_of(survey_.file().size());
  for (std::uint64_t from = 0; from + clusters <= whole_clusters;) {
    const auto used = survey_.counts.next(from);
    if (!used || *used - from >= clusters) {
      place_ = from;
      return true;
    }
    from = *used + 1;
  }
  return false;
}

/// Table and blocks count themselves, so more blocks may need more blocks; and in another place others may be needed.
/// The room never gets smaller from one try to the next, so that there is a last one.
outcome<void> count_rebuild::plan() {
  if (!survey_.file().capabilities().can_grow && !survey_.complete) {
    return refuse("nobody knows which clusters are free, and its storage cannot grow");
  }
  std::uint64_t clusters = 0;
  while (true) {
    if (!find_place(clusters)) return refuse("there are not enough free clusters next to each other");
    blocks_ = needed_blocks(clusters);
    table_clusters_ = shape_.clusters_for((blocks_.back() + 1) * entry_bytes);
    if (shape_.offset_of(table_clusters_) > largest_refcount_table_bytes) {
      return refuse("the refcount table would be too big");
    }
    const std::uint64_t needed = table_clusters_ + blocks_.size();
    if (needed <= clusters) return outcome<void>{};
    clusters = needed;
  }
}

task<result<void>> count_rebuild::write_blocks() {
  std::vector<std::byte> block(static_cast<std::size_t>(shape_.cluster_size()));
  for (std::size_t at = 0; at < blocks_.size(); ++at) {
    std::ranges::fill(block, std::byte{0});
    result<void> done = co_await fill_block(block, blocks_[at]);
    if (done) done = co_await survey_.file().write(shape_.offset_of(place_ + table_clusters_ + at), block);
    if (!done) co_return done.error();
  }
  co_return result<void>{};
}

task<result<void>> count_rebuild::fill_block(std::span<std::byte> block, std::uint64_t index) {
  const unsigned order = shape_.refcount_order;
  const std::uint64_t first = index * shape_.refcounts_per_block();
  const std::uint64_t end = first + shape_.refcounts_per_block();
  if (!survey_.complete && old_.block(index) != 0) {
    const result<void> got = co_await survey_.file().read(old_.block(index), block);
    if (!got) co_return got.error();
  }
  for (auto at = survey_.counts.next(first); at && *at < end; at = survey_.counts.next(*at + 1)) {
    const std::uint64_t stored = load_refcount(block.data(), *at - first, order);
    const std::uint64_t count = old_.settled(stored, survey_.counts.count(*at));
    store_refcount(block.data(), *at - first, order, count);
    survey_.counts.set_stored_once(*at, count == 1);
  }
  const std::uint64_t end_new = std::min(place_ + table_clusters_ + blocks_.size(), end);
  for (std::uint64_t at = std::max(place_, first); at < end_new; ++at) {
    store_refcount(block.data(), at - first, order, 1);
  }
  co_return result<void>{};
}

task<result<void>> count_rebuild::write_table() {
  std::vector<std::byte> table(static_cast<std::size_t>(shape_.offset_of(table_clusters_)));
  for (std::size_t at = 0; at < blocks_.size(); ++at) {
    const std::uint64_t block = shape_.offset_of(place_ + table_clusters_ + at);
    store_big(table.data() + blocks_[at] * entry_bytes, block);
  }
  co_return co_await survey_.file().write(shape_.offset_of(place_), table);
}

task<result<void>> count_rebuild::switch_header() {
  storage& file = survey_.file();
  std::vector<std::byte> sector(sector_bytes);
  result<void> done = co_await file.read(0, sector);
  if (!done) co_return done;
  store_big(sector.data() + field::refcount_table, shape_.offset_of(place_));
  store_big(sector.data() + field::refcount_table + 8, static_cast<std::uint32_t>(table_clusters_));
  done = co_await file.write(0, sector);
  if (done) done = co_await file.flush();
  co_return done;
}

}  // namespace weir::qcow2
