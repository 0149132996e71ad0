#include "formats/qcow2/rebuild.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/entry_table.hpp"
#include "formats/qcow2/l2_entry.hpp"
#include "formats/qcow2/refcount_codec.hpp"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace weir::qcow2 {
namespace {

constexpr std::uint32_t bitmaps_extension = 0x2385'2875;
// One bit each while they are counted.
constexpr std::uint64_t most_clusters = std::uint64_t{1} << 30;

/// References per host cluster. Only compressed clusters may share one.
class reference_counter {
 public:
  reference_counter(std::uint64_t clusters, std::uint64_t highest)
      : highest_(highest), referenced_(static_cast<std::size_t>(clusters)) {}

  /// False if the cluster lies outside the file or belongs to something already.
  bool take(std::uint64_t cluster) {
    if (cluster >= referenced_.size() || referenced_[cluster]) return false;
    referenced_[cluster] = true;
    return true;
  }
  bool take_run(cluster_run run) {
    for (std::uint64_t cluster = run.first; cluster < run.end(); ++cluster) {
      if (!take(cluster)) return false;
    }
    return true;
  }
  bool share(std::uint64_t cluster) {
    const auto found = shared_.find(cluster);
    if (found == shared_.end()) return take(cluster) && shared_.emplace(cluster, 1).second;
    return ++found->second <= highest_;
  }
  std::uint64_t count(std::uint64_t cluster) const {
    if (cluster >= referenced_.size() || !referenced_[cluster]) return 0;
    const auto found = shared_.find(cluster);
    return found == shared_.end() ? 1 : found->second;
  }

 private:
  std::uint64_t highest_;
  std::vector<bool> referenced_;
  std::unordered_map<std::uint64_t, std::uint64_t> shared_;  // compressed
};

class rebuild {
 public:
  rebuild(storage& file, const header& head)
      : file_(file),
        head_(head),
        shape_(head.shape),
        file_clusters_(shape_.clusters_for(file.size())),
        counter_(file_clusters_, shape_.highest_refcount()) {}

  task<outcome<void>> run();

 private:
  failure refuse(std::string_view why) const;
  task<outcome<void>> count_references();
  task<outcome<void>> count_table(std::uint64_t table);
  bool count_entry(const l2_entry& entry);
  void plan();
  task<result<void>> write_blocks();
  task<result<void>> write_table();
  task<result<void>> switch_header();

  storage& file_;
  const header& head_;
  const geometry& shape_;
  std::uint64_t file_clusters_;
  reference_counter counter_;
  std::uint64_t table_clusters_ = 0;
  std::uint64_t blocks_ = 0;
};

failure rebuild::refuse(std::string_view why) const {
  std::string clause = "was not closed cleanly and cannot be repaired here: ";
  clause.append(why).append("; use qemu-img check -r all");
  return make_failure(errc::corrupt_image, file_.location(), clause);
}

task<outcome<void>> rebuild::run() {
  outcome<void> counted = co_await count_references();
  if (!counted) co_return counted;
  plan();
  if (table_clusters_ << shape_.cluster_bits > largest_refcount_table_bytes) {
    co_return refuse("its refcount table would be too big");
  }
  result<void> wrote = co_await write_blocks();
  if (wrote) wrote = co_await write_table();
  if (wrote) wrote = co_await file_.flush();
  if (wrote) wrote = co_await switch_header();
  if (!wrote) co_return make_failure(wrote.error(), file_.location());
  co_return outcome<void>{};
}

task<outcome<void>> rebuild::count_references() {
  const cluster_run l1_run{shape_.cluster_of(head_.l1_offset),
                           shape_.clusters_for(head_.l1_count * entry_bytes)};
  if (!counter_.take(0) || !counter_.take_run(l1_run)) co_return refuse("its L1 table is misplaced");
  entry_table l1(head_.l1_offset);
  const result<void> loaded = co_await l1.load(file_, head_.l1_count);
  if (!loaded) co_return make_failure(loaded.error(), file_.location());
  std::vector<std::uint64_t> tables;
  for (const std::uint64_t raw : l1.entries()) {
    const auto table = decode_l1_entry(raw, shape_);
    if (!table) co_return refuse("an L1 entry is damaged");
    if (*table == 0) continue;
    if (!counter_.take(shape_.cluster_of(*table))) co_return refuse("an L2 table is misplaced");
    tables.push_back(*table);
  }
  for (const std::uint64_t table : tables) {
    const outcome<void> counted = co_await count_table(table);
    if (!counted) co_return counted;
  }
  co_return outcome<void>{};
}

task<outcome<void>> rebuild::count_table(std::uint64_t table) {
  std::vector<std::byte> slice(
      static_cast<std::size_t>(std::min<std::uint64_t>(shape_.cluster_size(), 64 * KiB)));
  for (std::uint64_t done = 0; done < shape_.cluster_size(); done += slice.size()) {
    const result<void> got = co_await file_.read(table + done, slice);
    if (!got) co_return make_failure(got.error(), file_.location());
    for (std::size_t at = 0; at < slice.size(); at += shape_.l2_entry_bytes()) {
      const l2_entry entry = decode_l2_entry(load_l2_entry(slice.data() + at, shape_), shape_);
      if (!count_entry(entry)) co_return refuse("an L2 entry is damaged or names a cluster in use");
    }
  }
  co_return outcome<void>{};
}

bool rebuild::count_entry(const l2_entry& entry) {
  if (entry.kind == entry_kind::invalid) return false;
  const cluster_run run = referenced_clusters(entry, shape_);
  if (entry.kind != entry_kind::compressed) return counter_.take_run(run);
  for (std::uint64_t cluster = run.first; cluster < run.end(); ++cluster) {
    if (!counter_.share(cluster)) return false;
  }
  return true;
}

/// Table and blocks stand behind the end of the file and count themselves.
void rebuild::plan() {
  while (true) {
    const std::uint64_t clusters = file_clusters_ + table_clusters_ + blocks_;
    const std::uint64_t blocks = (clusters + shape_.refcounts_per_block() - 1) / shape_.refcounts_per_block();
    const std::uint64_t table = shape_.clusters_for(blocks * entry_bytes);
    if (blocks == blocks_ && table == table_clusters_) return;
    blocks_ = blocks;
    table_clusters_ = table;
  }
}

task<result<void>> rebuild::write_blocks() {
  const std::uint64_t first_new = file_clusters_;
  const std::uint64_t end_new = first_new + table_clusters_ + blocks_;
  std::vector<std::byte> block(static_cast<std::size_t>(shape_.cluster_size()));
  for (std::uint64_t index = 0; index < blocks_; ++index) {
    for (std::uint64_t at = 0; at < shape_.refcounts_per_block(); ++at) {
      const std::uint64_t cluster = index * shape_.refcounts_per_block() + at;
      const bool is_new = cluster >= first_new && cluster < end_new;
      store_refcount(block.data(), at, shape_.refcount_order, is_new ? 1 : counter_.count(cluster));
    }
    const std::uint64_t place = shape_.offset_of(first_new + table_clusters_ + index);
    const result<void> wrote = co_await file_.write(place, block);
    if (!wrote) co_return wrote.error();
  }
  co_return result<void>{};
}

task<result<void>> rebuild::write_table() {
  std::vector<std::byte> table(static_cast<std::size_t>(table_clusters_ << shape_.cluster_bits));
  for (std::uint64_t index = 0; index < blocks_; ++index) {
    const std::uint64_t block = shape_.offset_of(file_clusters_ + table_clusters_ + index);
    store_big(table.data() + index * entry_bytes, block);
  }
  co_return co_await file_.write(shape_.offset_of(file_clusters_), table);
}

task<result<void>> rebuild::switch_header() {
  std::vector<std::byte> sector(sector_bytes);
  result<void> done = co_await file_.read(0, sector);
  if (!done) co_return done;
  store_big(sector.data() + field::refcount_table, shape_.offset_of(file_clusters_));
  store_big(sector.data() + field::refcount_table + 8, static_cast<std::uint32_t>(table_clusters_));
  store_big(sector.data() + field::incompatible, head_.incompatible & ~incompatible_bit::dirty);
  done = co_await file_.write(0, sector);
  if (done) done = co_await file_.flush();
  co_return done;
}

}  // namespace

task<outcome<void>> rebuild_refcounts(storage& file, const header& head) {
  std::string_view why;
  if (head.snapshot_count > 0) why = "it has internal snapshots";
  if (head.find(bitmaps_extension) != nullptr) why = "it has bitmaps";
  if (!file.capabilities().can_grow) why = "its storage cannot grow";
  if (head.shape.clusters_for(file.size()) > most_clusters) why = "it is too big";
  if (!why.empty()) {
    std::string clause = "was not closed cleanly and cannot be repaired here: ";
    clause.append(why).append("; use qemu-img check -r all");
    co_return make_failure(errc::corrupt_image, file.location(), clause);
  }
  rebuild work(file, head);
  co_return co_await work.run();
}

}  // namespace weir::qcow2
