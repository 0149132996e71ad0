// Guest clusters of which allocations under way hold a part: what lets them share one host cluster.
//
// Callers of an image keep subclusters exclusive, not clusters. So between allocate and publish or release a
// cluster of which only a part was asked for is claimed:
//   reserved   the first allocation took a host cluster that no entry names yet; the others join it, the first
//              publish points the entry there, and the last release, if nobody published, gives it back
//   owned      the entry names the host cluster already; the claim keeps it from being freed
//   moving     everything allocated moves to a new host cluster, because the old one is compressed or shared:
//              nobody else may allocate or change a part of this guest cluster until that has ended
#pragma once

#include "engine/base/async_event.hpp"
#include "engine/base/task.hpp"

#include <cstdint>
#include <optional>
#include <unordered_map>

namespace weir::qcow2 {

class cluster_claims {
 public:
  struct claim {
    std::uint64_t host_offset = 0;
    bool reserved = false;
    bool moving = false;
    unsigned users = 0;
  };

  explicit cluster_claims(executor context) : ended_(std::move(context)) {}

  /// Null if the guest cluster is not claimed. Valid until the next change of any claim.
  const claim* find(std::uint64_t cluster) const noexcept {
    if (claims_.empty()) return nullptr;
    const auto found = claims_.find(cluster);
    return found == claims_.end() ? nullptr : &found->second;
  }
  bool is_moving(std::uint64_t cluster) const noexcept {
    const claim* found = find(cluster);
    return found != nullptr && found->moving;
  }
  /// Until any move ends; look again.
  task<void> wait_for_move() { return ended_.wait(); }

  /// One more user of the cluster. Precondition: an existing claim names the same host cluster and does not
  /// move.
  void add(std::uint64_t cluster, const claim& wanted) {
    claim& there = claims_.try_emplace(cluster, wanted).first->second;
    ++there.users;
  }

  /// One user less; `published`: the entry names the host cluster now. Returns what is left: with no users the
  /// claim is gone, and its host cluster belongs to nobody if it is still reserved. Empty: there was none.
  std::optional<claim> end(std::uint64_t cluster, bool published) {
    const auto found = claims_.find(cluster);
    if (found == claims_.end()) return std::nullopt;
    claim& there = found->second;
    if (published) there.reserved = false;
    --there.users;
    const claim left = there;
    if (left.users == 0) claims_.erase(found);
    if (left.moving && ended_.has_waiters()) ended_.notify_all();
    return left;
  }

 private:
  std::unordered_map<std::uint64_t, claim> claims_;
  async_event ended_;
};

}  // namespace weir::qcow2
