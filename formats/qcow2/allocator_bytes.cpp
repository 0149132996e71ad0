// Bytes for compressed clusters: several share a host cluster, each with a reference of its own.
#include "formats/qcow2/allocator.hpp"

namespace weir::qcow2 {

/// Bytes left in the cluster being filled; 0 where there is none or its count is at the width's limit.
task<result<std::uint64_t>> allocator::room_for_bytes() {
  if (next_byte_ == 0) co_return std::uint64_t{0};
  const std::uint64_t cluster = shape_.cluster_of(next_byte_);
  const result<std::uint64_t> count = co_await counts_.get(cluster);
  if (!count) co_return count.error();
  if (*count == 0 || *count >= shape_.highest_refcount()) co_return std::uint64_t{0};
  co_return shape_.offset_of(cluster + 1) - next_byte_;
}

task<result<allocator::byte_reservation>> allocator::reserve_bytes(std::uint64_t length) {
  result<std::uint64_t> room = co_await room_for_bytes();
  if (!room) co_return room.error();
  byte_reservation made;
  if (*room < length) {
    const result<reservation> next = co_await reserve(1);
    if (!next) co_return next.error();
    made.fresh = next->run;
    // Reserving may have freed the cluster that was being filled.
    room = co_await room_for_bytes();
    if (!room) co_return co_await give_up(made, room.error());
    const bool adjacent = *room > 0 && shape_.cluster_of(next_byte_) + 1 == next->run.first;
    if (!adjacent) {
      next_byte_ = shape_.offset_of(next->run.first);
      room = std::uint64_t{0};
    }
  }
  made.host = {next_byte_, length};
  if (*room > 0) {
    const std::uint64_t shared = shape_.cluster_of(next_byte_);
    const result<std::uint64_t> count = co_await counts_.get(shared);
    if (!count) co_return co_await give_up(made, count.error());
    const result<void> counted = co_await counts_.set(shared, *count + 1);
    if (!counted) co_return co_await give_up(made, counted.error());
  }
  next_byte_ = is_aligned(made.host.end(), shape_.cluster_size()) ? 0 : made.host.end();
  co_return made;
}

task<error_code> allocator::give_up(byte_reservation made, error_code why) {
  if (made.fresh.count > 0) {
    const result<void> ignored = co_await give_back(made.fresh);
    static_cast<void>(ignored);
  }
  co_return why;
}

task<result<void>> allocator::give_back_bytes(byte_range host) {
  if (next_byte_ == host.end()) next_byte_ = is_aligned(host.offset, shape_.cluster_size()) ? 0 : host.offset;
  std::vector<std::uint64_t> clusters;
  for (std::uint64_t at = shape_.cluster_of(host.offset); at <= shape_.cluster_of(host.end() - 1); ++at) {
    clusters.push_back(at);
  }
  co_return co_await release_references(clusters);
}

}  // namespace weir::qcow2
