// Changes of the mapping: allocate, publish, zero, discard, and the flushes between them.
//
// Two locks' worth of order, in one place:
// - The allocation lock is held wherever counts change or an L2 table comes into being (allocate, release,
//   collecting dropped clusters). A flush pass never takes it.
// - L2 entries change without a lock: the caller keeps a grain exclusive, and an entry is read and written
//   between two suspensions. Where a grain is only a part of what the entry describes, claims
//   (formats/qcow2/cluster_claims.hpp) tell who else is at work on it.
// Once an L1 entry is marked COPIED its table stays where it is, so a place found before a suspension is
// still the place afterwards.
//
// Before anything is made dirty, a change waits for a flush pass if the caches are full of dirty slices: that
// bounds memory, and no dirty slice ever leaves the cache but through a pass.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/image.hpp"
#include "formats/qcow2/allocator.hpp"
#include "formats/qcow2/async_lock.hpp"
#include "formats/qcow2/cluster_claims.hpp"
#include "formats/qcow2/flusher.hpp"
#include "formats/qcow2/image_tables.hpp"
#include "formats/qcow2/refcounts.hpp"
#include "formats/qcow2/subclusters.hpp"

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

namespace weir::qcow2 {

class writer {
 public:
  writer(executor context, image_tables& tables, pin_ledger& pins, std::size_t refcount_cache_bytes);

  task<outcome<void>> load(std::string_view location) { return counts_.load(location); }

  // As in image.hpp.
  task<result<allocation>> allocate(byte_range range);
  task<result<allocation>> allocate_encoded(byte_range unit, std::uint64_t byte_length);
  task<result<void>> publish(const allocation& reserved);
  task<result<void>> release(const allocation& reserved);
  task<result<void>> zero(byte_range range, zero_mode mode);
  task<result<void>> discard(byte_range range);
  task<result<void>> flush();
  task<result<void>> change_backing(std::optional<backing_reference> wanted);
  task<outcome<void>> resize(std::uint64_t size, std::uint64_t zero_end);
  task<result<void>> make_empty();
  /// Flushes until nothing is dirty and everything dropped is free. Precondition: no pins are left.
  task<result<void>> flush_all();

  /// Told every error of a mapping or a change, and returns it. If it says that the metadata contradicts itself,
  /// going on could destroy data: the image is marked corrupt, durably, and refuses changes from then on.
  task<error_code> note(error_code code);
  bool found_corrupt() const noexcept { return found_corrupt_; }

  refcounts& counts() noexcept { return counts_; }
  allocator& clusters() noexcept { return clusters_; }
  flusher& passes() noexcept { return flusher_; }
  /// For changes that go beyond the mapping: what counts, clusters and whole tables want to be held.
  task<async_lock::guard> lock_allocation() { return allocation_.acquire(); }

 private:
  // allocation::token: whether the host clusters were reserved, or belonged to the entries already.
  static constexpr std::uint64_t reserved_token = 1;
  static constexpr std::uint64_t reused_token = 2;
  struct placed_slice {
    std::uint64_t offset;  // of the L2 slice
    std::uint64_t index;   // of the first entry
    std::uint64_t count;   // entries in this slice
  };
  struct need {
    std::uint64_t count = 0;         // clusters
    std::uint64_t reuse_offset = 0;  // host clusters the entries or claims own already; 0: none
    std::uint64_t guest_end = 0;     // with subclusters: how far of the request this goes
  };

  placed_slice locate(std::uint64_t table, byte_range range) const noexcept;
  task<result<std::uint64_t>> writable_table(std::uint64_t l1_index);
  task<result<void>> fill_table(std::uint64_t new_table, std::uint64_t old_table);
  result<need> survey(const placed_slice& at, std::uint64_t first_cluster) const;
  allocation describe(byte_range range, const need& wanted, std::uint64_t host_offset) const noexcept;
  task<result<void>> reach(std::uint64_t host_end);
  l2_entry entry_at(const placed_slice& at, std::uint64_t index) const;
  result<need> survey_subclusters(const placed_slice& at, byte_range range) const;
  allocation describe_subclusters(byte_range range, const placed_slice& at, const need& wanted,
                                  std::uint64_t host_offset) const;
  void claim_parts(const allocation& made, const placed_slice& at, bool reserved);
  task<result<allocation>> allocate_subclusters(byte_range range, placed_slice at);
  task<result<void>> release_subclusters(allocation reserved);
  result<allocation> place_in_data_file(byte_range range, const placed_slice& at) const;
  task<result<void>> zero_data_file(byte_range range, zero_mode mode);
  task<result<void>> resize_data_file(std::uint64_t size);
  task<void> give_up_data(byte_range range);
  task<result<void>> pad_end(const allocation& reserved);
  task<result<void>> reach_end(const allocation& reserved);
  task<result<void>> change_entries(byte_range range, entry_change what);
  task<result<std::uint64_t>> change_slice(byte_range range, entry_change what);
  raw_l2_entry changed(const raw_l2_entry& raw, byte_range range, std::uint64_t cluster,
                       entry_change what) const noexcept;
  result<bool> needs_change(const placed_slice& at, byte_range range, entry_change what) const;
  bool is_moving(byte_range range, std::uint64_t clusters) const noexcept;
  void drop_what(const raw_l2_entry& old, const raw_l2_entry& now);
  task<outcome<void>> grow(std::uint64_t size, std::uint64_t zero_end);
  task<result<void>> zero_behind_end(std::uint64_t zero_end);
  task<result<void>> clear_last_cluster();
  task<outcome<void>> shrink(std::uint64_t size);
  task<result<void>> move_l1(std::uint64_t count);
  task<result<void>> record_size(std::uint64_t size);
  task<result<void>> forget(cluster_run guest);
  task<result<void>> forget_range(cluster_run guest, std::vector<std::uint64_t>& gone);
  task<result<void>> forget_table(std::uint64_t l1_index, std::uint64_t table);
  task<result<void>> forget_entries(std::uint64_t l1_index, byte_range guest);
  task<result<void>> trim();
  task<result<void>> publish_encoded(const allocation& reserved);
  task<result<void>> release_encoded(const allocation& reserved);
  task<result<void>> fetch(std::uint64_t slice);
  task<result<void>> relieve();

  image_tables& tables_;
  const geometry& shape_;
  refcounts counts_;
  allocator clusters_;
  flusher flusher_;
  async_lock allocation_;
  cluster_claims claims_;
  bool found_corrupt_ = false;
};

}  // namespace weir::qcow2
