// Which host clusters are free, and when a dropped cluster may be used again.
//
// A free cluster is one whose refcount is 0: the count is the truth, the list of free runs below only says
// where to look. So the life of a dropped cluster is
//   dropped   no pointer in memory names it; its count is unchanged            (drop)
//   settled   the pass that cleared the pointer is durable                     (settle)
//   free      nobody reads it any more: count decremented, space given back    (collect)
// and it can neither be reused nor punched before all three. A crash in between only leaks it.
//
// New clusters come from a cursor that moves upwards, so that large requests are contiguous; runs freed below
// it are used first where they are long enough.
//
// Not reentrant: callers hold the image's allocation lock across reserve, give_back and collect.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/pin_ledger.hpp"
#include "formats/qcow2/image_tables.hpp"
#include "formats/qcow2/refcounts.hpp"

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

namespace weir::qcow2 {

class allocator {
 public:
  allocator(image_tables& tables, refcounts& counts, pin_ledger& pins);

  struct reservation {
    cluster_run run;
    bool reads_zero = false;  ///< never written: behind the end of the file as it was opened
  };
  /// 1 to `most` contiguous clusters with a count of 1. Errors: ENOSPC; corrupt_image if the counts call
  /// metadata free.
  task<result<reservation>> reserve(std::uint64_t most);
  /// The run was reserved and no pointer to it has been published.
  task<result<void>> give_back(cluster_run run);

  /// Exactly `count` contiguous clusters with a count of 1. Errors: as reserve().
  task<result<cluster_run>> reserve_run(std::uint64_t count);
  /// One reference less on each of `clusters`, at once. Precondition: nothing on the storage names them any more on
  /// account of these references, and nobody reads them. `clusters` keeps what an error left undone.
  task<result<void>> release_now(std::vector<std::uint64_t>& clusters);
  /// `length` bytes, less than a cluster, behind the bytes handed out last where there is room and the count of
  /// their cluster can still grow; each cluster they touch counts one reference for them. `fresh` are the clusters
  /// that nothing else uses. Errors: as reserve().
  struct byte_reservation {
    byte_range host;
    cluster_run fresh;
  };
  task<result<byte_reservation>> reserve_bytes(std::uint64_t length);
  /// The bytes were reserved and no pointer to them has been published.
  task<result<void>> give_back_bytes(byte_range host);

  /// One reference less on each cluster of `run`, once that is safe. Any time, without the lock.
  void drop(cluster_run run);
  /// For a flush pass: takes what has been dropped so far …
  void freeze();
  /// … and says whether the pass that clears the pointers is durable.
  void settle(bool written);
  /// Decrements what is settled and no longer pinned. What an error keeps back stays for the next call.
  task<result<void>> collect();
  bool has_collectable() const noexcept {
    return !settled_.empty() && pins_.is_unpinned(settled_.front().retired);
  }

 private:
  struct batch {
    pin_ledger::generation retired = 0;
    std::vector<std::uint64_t> clusters;
  };

  task<result<cluster_run>> find_run(std::uint64_t most);
  task<result<cluster_run>> find_listed(std::uint64_t most, bool any_length);
  task<result<cluster_run>> find_behind_cursor(std::uint64_t most);
  task<result<cluster_run>> find_exact(std::uint64_t from, std::uint64_t count);
  task<result<cluster_run>> find_beyond(std::uint64_t count);
  std::uint64_t take_growth(const refcounts::growth& grown);
  task<result<std::uint64_t>> room_for_bytes();
  /// Gives the fresh clusters back and returns `why`.
  task<error_code> give_up(byte_reservation made, error_code why);
  task<result<void>> release_references(std::vector<std::uint64_t>& clusters);
  task<void> make_free(cluster_run run);
  void list(cluster_run run);
  result<void> check_place(cluster_run& run) const;

  image_tables& tables_;
  refcounts& counts_;
  pin_ledger& pins_;
  const geometry& shape_;
  std::uint64_t cursor_ = 0;
  std::uint64_t never_written_from_;               // cluster index
  std::map<std::uint64_t, std::uint64_t> listed_;  // free runs: first → count
  bool list_overflowed_ = false;
  /// Where the next bytes may go: inside a cluster that others' bytes use; 0 where there is none. The cluster has
  /// a count of its own for each of them, so that it is forgotten here when the last goes.
  std::uint64_t next_byte_ = 0;
  std::vector<std::uint64_t> dropped_;
  std::vector<std::uint64_t> frozen_;
  pin_ledger::generation frozen_retired_ = 0;
  std::deque<batch> settled_;
};

}  // namespace weir::qcow2
