// Compressed clusters: places for their bytes.
//
// The bytes of neighbours share host clusters and even sectors. A new host cluster is made part of the file before
// any of its bytes are handed out, so that no write of one reaches into another's.
//
// With subclusters a unit is still a whole cluster; the caller has all its grains to itself, so that nobody else has
// a claim on it.
#include "formats/qcow2/writer.hpp"

#include <cerrno>

namespace weir::qcow2 {

task<result<allocation>> writer::allocate_encoded(byte_range unit, std::uint64_t byte_length) {
  const result<void> relieved = co_await relieve();
  if (!relieved) co_return relieved.error();
  const async_lock::guard lock = co_await allocation_.acquire();
  if (found_corrupt_) co_return errc::corrupt_image;
  const std::uint64_t l1_index = tables_.place_of(shape_.cluster_of(unit.offset)).l1_index;
  const result<std::uint64_t> table = co_await writable_table(l1_index);
  if (!table) co_return table.error();
  const placed_slice at = locate(*table, unit);
  const result<void> there = co_await fetch(at.offset);
  if (!there) co_return there.error();
  const entry_kind kind = entry_at(at, 0).kind;
  if (kind == entry_kind::invalid) co_return errc::corrupt_image;
  if (kind != entry_kind::unallocated && kind != entry_kind::zero_plain) co_return errc::not_supported;
  const result<allocator::byte_reservation> place = co_await clusters_.reserve_bytes(byte_length);
  if (!place) co_return place.error();
  const result<void> reached = co_await reach(shape_.offset_of(place->fresh.end()));
  if (!reached) {
    const result<void> ignored = co_await clusters_.give_back_bytes(place->host);
    static_cast<void>(ignored);
    co_return reached.error();
  }
  allocation made;
  made.guest = unit;
  made.host_offset = place->host.offset;
  made.encoded_length = byte_length;
  co_return made;
}

task<result<void>> writer::publish_encoded(const allocation& reserved) {
  const byte_range host{reserved.host_offset, reserved.encoded_length};
  const std::optional<std::uint64_t> word = encode_compressed_entry(host, shape_);
  if (!word) co_return errno_code(EFBIG);
  const auto table = tables_.l2_table(tables_.place_of(shape_.cluster_of(reserved.guest.offset)).l1_index);
  if (!table || *table == 0) co_return errc::corrupt_image;
  const placed_slice at = locate(*table, reserved.guest);
  const result<void> there = co_await fetch(at.offset);
  if (!there) co_return there.error();
  std::byte* entry = tables_.l2.find_for_change(at.offset) + at.index * shape_.l2_entry_bytes();
  const raw_l2_entry now{.word = *word};
  drop_what(load_l2_entry(entry, shape_), now);
  store_l2_entry(entry, now, shape_);
  co_return result<void>{};
}

task<result<void>> writer::release_encoded(const allocation& reserved) {
  const async_lock::guard lock = co_await allocation_.acquire();
  const byte_range host{reserved.host_offset, reserved.encoded_length};
  co_return co_await clusters_.give_back_bytes(host);
}

}  // namespace weir::qcow2
