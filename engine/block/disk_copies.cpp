// What copies between disks use of a disk: content found and scanned, content stored without its zeros.
#include "engine/block/bitmap_recorder.hpp"
#include "engine/block/disk.hpp"
#include "engine/block/gather.hpp"

#include <algorithm>
#include <utility>

namespace weir {

task<result<std::vector<byte_range>>> disk::read_and_scan(byte_range range, std::span<std::byte> buffer,
                                                          std::uint64_t granularity) {
  if (!fits(range.offset, range.length, size())) co_return errc::out_of_range;
  const gate::pass pass = co_await gate_.enter();
  co_return co_await read_and_scan_inside(range, buffer, granularity);
}

task<result<std::vector<byte_range>>> disk::read_and_scan_inside(byte_range range,
                                                                 std::span<std::byte> buffer,
                                                                 std::uint64_t granularity) {
  return gather_and_scan(resources_, *chain_, range, buffer, granularity);
}

std::vector<std::shared_ptr<layer>> disk::exchange_layers(std::vector<std::shared_ptr<layer>> layers) {
  if (recorder_) remove_observer(*recorder_);
  recorder_.reset();
  std::vector<std::shared_ptr<layer>> old = chain_->layers();
  chain_->replace_layers(std::move(layers));
  record_bitmaps();
  return old;
}

task<result<void>> disk::store_held(byte_range range, std::span<const std::byte> data,
                                    std::span<const byte_range> non_zero, bool rest_is_zero) {
  const auto is_whole = [&](byte_range run) {
    const byte_range guest{range.offset + run.offset, run.length};
    return grains_inside(guest) == guest;
  };
  const zeroing rest{zero_mode::may_punch, false};
  const bool whole_grains = std::ranges::all_of(non_zero, is_whole);
  std::vector<placed_run> runs;
  std::uint64_t done_to = range.offset;
  for (const byte_range run : non_zero) {
    const byte_range guest{range.offset + run.offset, run.length};
    const auto content = data.subspan(run.offset, run.length);
    result<void> done;
    if (!rest_is_zero) done = co_await zero_held(range_between(done_to, guest.offset), rest);
    if (done && whole_grains) runs.push_back({guest, content});
    if (done && !whole_grains) done = co_await write_held(guest, content);
    if (!done) co_return done;
    done_to = guest.end();
  }
  if (!rest_is_zero) {
    const result<void> done = co_await zero_held(range_between(done_to, range.end()), rest);
    if (!done) co_return done;
  }
  co_return co_await place_runs(writing(), std::move(runs));
}

task<result<void>> disk::store(byte_range range, std::span<const std::byte> data,
                               std::span<const byte_range> non_zero, bool rest_is_zero) {
  const result<void> allowed = check_change(range);
  if (!allowed) co_return allowed;
  const gate::pass pass = co_await gate_.enter();
  const in_flight_ranges::hold held = co_await in_flight_.acquire(grains_around(range));
  result<void> done = co_await notify_before(range, change_kind::write);
  if (done) done = co_await store_held(range, data, non_zero, rest_is_zero);
  co_return co_await notify_after(range, change_kind::write, data, done);
}

task<result<std::size_t>> disk::store_encoded(std::span<const encoded_piece> units) {
  if (units.empty()) co_return std::size_t{0};
  const byte_range range = range_between(units.front().guest.offset, units.back().guest.end());
  const result<void> allowed = check_change(range);
  if (!allowed) co_return allowed.error();
  const gate::pass pass = co_await gate_.enter();
  const in_flight_ranges::hold held = co_await in_flight_.acquire(grains_around(range));
  result<void> seen = co_await notify_before(range, change_kind::write);
  if (!seen) co_return seen.error();
  const result<std::size_t> placed = co_await place_encoded(resources_, active(), units);
  // Observers that want the data read it themselves: here it exists only encoded.
  seen = co_await notify_after(range, change_kind::write, {}, result<void>{});
  if (placed && !seen) co_return seen.error();
  co_return placed;
}

}  // namespace weir
