#include "engine/block/disk.hpp"

#include "engine/base/zero_scan.hpp"
#include "engine/block/bitmap_recorder.hpp"
#include "engine/block/gather.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace weir {
namespace {

constexpr std::size_t zero_block_bytes = 256 * KiB;
/// Of the formats whose grains may be parts of a cluster.
constexpr std::uint64_t largest_cluster_bytes = 2 * MiB;

std::span<const std::byte> zero_block() {
  static constexpr std::array<std::byte, zero_block_bytes> zeros{};
  return zeros;
}

}  // namespace

disk::disk(engine_resources resources, std::unique_ptr<weir::chain> chain, disk_settings settings)
    : resources_(resources),
      chain_(std::move(chain)),
      settings_(std::move(settings)),
      fill_buffers_(resources.context, fill_buffer_bytes),
      in_flight_(resources.context),
      gate_(resources.context) {
  chain_->set_error_sink([this](const layer& failed, byte_range range, error_code code) {
    if (resources_.report == nullptr) return;
    const std::string subject = settings_.name + ": " + describe(failed.model.source);
    (*resources_.report)(
        make_failure(code, subject, code.message() + " at guest offset " + std::to_string(range.offset)));
  });
  record_bitmaps();
}

disk::~disk() = default;

void disk::record_bitmaps() {
  bitmap_store* kept = active().bitmaps();
  if (settings_.read_only || recorder_ || kept == nullptr || !kept->records()) return;
  recorder_ = std::make_unique<bitmap_recorder>(*kept);
  add_observer(*recorder_);
}

void disk::report(std::string_view operation, byte_range range, const result<void>& done) const {
  if (done || resources_.report == nullptr) return;
  std::string subject = settings_.name;
  subject.append(": ").append(operation).append(" of ").append(std::to_string(range.length));
  subject.append(" bytes at guest offset ").append(std::to_string(range.offset));
  (*resources_.report)(make_failure(done.error(), subject));
}

byte_range disk::grains_around(byte_range range) const {
  return intersection(align_outward(range, active().grain()), {0, size()});
}

byte_range disk::grains_inside(byte_range range) const {
  // The last grain may be cut short by the disk's end and counts as whole.
  const std::uint64_t first = align_up(range.offset, active().grain());
  const std::uint64_t end = range.end() == size() ? range.end() : align_down(range.end(), active().grain());
  return {first, std::max(first, end) - first};
}

result<void> disk::check_change(byte_range range) const {
  if (!fits(range.offset, range.length, size())) return errc::out_of_range;
  if (settings_.read_only) return errc::read_only;
  return {};
}

task<result<void>> disk::notify_before(byte_range range, change_kind kind) {
  // Others may come and go while one is asked.
  for (std::size_t index = 0; index < observers_.size(); ++index) {  // NOLINT(modernize-loop-convert)
    const result<void> allowed = co_await observers_[index]->before_change(range, kind);
    if (!allowed) co_return allowed;
  }
  co_return result<void>{};
}

task<result<void>> disk::notify_after(byte_range range, change_kind kind, std::span<const std::byte> data,
                                      result<void> done) {
  const bool succeeded = done.has_value();
  for (std::size_t index = 0; index < observers_.size(); ++index) {  // NOLINT(modernize-loop-convert)
    const result<void> seen = co_await observers_[index]->after_change(range, kind, data, succeeded);
    if (done && !seen) done = seen;
  }
  co_return done;
}

task<result<void>> disk::read(std::uint64_t offset, std::span<std::byte> buffer) {
  const byte_range range{offset, buffer.size()};
  if (!fits(offset, buffer.size(), size())) co_return errc::out_of_range;
  if (buffer.empty()) co_return result<void>{};
  gate::pass pass;
  if (!gate_.try_enter(pass)) pass = co_await gate_.enter();
  const bool copies = settings_.copy_on_read && !settings_.read_only && chain_->depth() > 1;
  result<void> done;
  if (copies) {
    done = co_await read_and_populate(range, buffer);
  } else {
    done = co_await read_chain(resources_, *chain_, range, buffer, {});
  }
  report("read", range, done);
  co_return done;
}

task<result<void>> disk::read_and_populate(byte_range range, std::span<std::byte> buffer) {
  const in_flight_ranges::hold held = co_await in_flight_.acquire(grains_around(range));
  // A guest's read must not fail because the copy found no space: what can be read is answered all the same.
  const result<populated> copied = co_await weir::populate(writing(), held.range(), chain_->depth());
  if (!copied) report("copy-on-read", range, copied.error());
  co_return co_await read_chain(resources_, *chain_, range, buffer, {});
}

task<result<void>> disk::write(std::uint64_t offset, std::span<const std::byte> data, write_flags flags) {
  const byte_range range{offset, data.size()};
  const result<void> allowed = check_change(range);
  if (!allowed || data.empty()) co_return allowed;
  if (settings_.detect_zeroes != zero_detection::off && is_all_zero(data)) {
    const bool punch = settings_.detect_zeroes == zero_detection::unmap && settings_.discard_unmap;
    const zeroing how{punch ? zero_mode::may_punch : zero_mode::keep_allocated, false};
    co_return co_await change(range, change_kind::zero, how, flags.fua);
  }
  gate::pass pass;
  if (!gate_.try_enter(pass)) pass = co_await gate_.enter();
  in_flight_ranges::hold held = co_await in_flight_.acquire(range);
  const result<std::optional<mapping>> direct = co_await find_in_place(active(), range);
  if (!direct) {
    report("write", range, direct.error());
    co_return direct.error();
  }
  if (!*direct) {
    held.release();
    held = co_await in_flight_.acquire(grains_around(range));
  }
  result<void> done = co_await notify_before(range, change_kind::write);
  if (done && *direct) {
    const extent& here = (*direct)->extent;
    done = co_await active().storage_at(here.storage_index).write(here.host_offset, data);
  } else if (done) {
    done = co_await write_held(range, data);
  }
  done = co_await notify_after(range, change_kind::write, data, done);
  held.release();
  if (done && flags.fua) done = co_await active().flush();
  report("write", range, done);
  co_return done;
}

/// Writes with the whole grains held.
task<result<void>> disk::write_held(byte_range range, std::span<const std::byte> data) {
  while (!range.empty()) {
    const result<mapping> found = co_await active().map(range, map_effort::locate);
    if (!found) co_return found.error();
    const extent& here = found->extent;
    std::uint64_t written = here.length;
    if (here.kind == extent_kind::data && here.in_place) {
      storage& target = active().storage_at(here.storage_index);
      const result<void> done = co_await target.write(here.host_offset, data.first(here.length));
      if (!done) co_return done;
    } else {
      const result<std::uint64_t> done =
          co_await write_to_new_grains(writing(), range.offset, data.first(here.length));
      if (!done) co_return done.error();
      written = *done;
    }
    range = range_between(range.offset + written, range.end());
    data = data.subspan(written);
  }
  co_return result<void>{};
}

task<result<void>> disk::write_zeros_held(byte_range range) {
  while (!range.empty()) {
    const byte_range part{range.offset, std::min<std::uint64_t>(range.length, zero_block_bytes)};
    const result<void> done = co_await write_held(part, zero_block().first(part.length));
    if (!done) co_return done;
    range = range_between(part.end(), range.end());
  }
  co_return result<void>{};
}

/// Part of one grain: nothing to do where it reads as zero already.
task<result<void>> disk::zero_edge(byte_range range) {
  while (!range.empty()) {
    const depth_range everywhere;
    const result<located_extent> found = co_await chain_->lookup(range, everywhere, map_effort::locate);
    if (!found) co_return found.error();
    const byte_range part{range.offset, found->length()};
    if (found->found.extent.kind != extent_kind::zero) {
      const result<void> done = co_await write_zeros_held(part);
      if (!done) co_return done;
    }
    range = range_between(part.end(), range.end());
  }
  co_return result<void>{};
}

/// Whole grains. What the image cannot make zero is written; that may be so only of a part of a compressed
/// cluster at an edge, so the middle gets a second chance.
task<result<void>> disk::zero_grains(byte_range range, zeroing how) {
  const result<void> done = co_await active().zero(range, how.mode);
  if (done || how.fast_only || done.error() != errc::not_supported) co_return done;
  const byte_range middle = align_inward(range, largest_cluster_bytes);
  if (middle.empty() || middle == range) co_return co_await write_zeros_held(range);
  for (const byte_range edge :
       {range_between(range.offset, middle.offset), range_between(middle.end(), range.end())}) {
    const result<void> wrote = co_await write_zeros_held(edge);
    if (!wrote) co_return wrote;
  }
  co_return co_await zero_grains(middle, how);
}

task<result<void>> disk::zero_held(byte_range range, zeroing how) {
  const byte_range inner = grains_inside(range);
  if (range.empty()) co_return result<void>{};
  if (inner.empty() || !range.contains(inner)) co_return co_await zero_edge(range);
  result<void> done = co_await zero_edge(range_between(range.offset, inner.offset));
  if (!done) co_return done;
  done = co_await zero_grains(inner, how);
  if (!done) co_return done;
  co_return co_await zero_edge(range_between(inner.end(), range.end()));
}

task<result<void>> disk::change_held(byte_range range, change_kind kind, zeroing how) {
  if (kind == change_kind::zero) co_return co_await zero_held(range, how);
  const byte_range inner = grains_inside(range);
  if (inner.empty()) co_return result<void>{};
  co_return co_await active().discard(inner);
}

/// Zero or discard, from the gate to the flush.
task<result<void>> disk::change(byte_range range, change_kind kind, zeroing how, bool fua) {
  gate::pass pass;
  if (!gate_.try_enter(pass)) pass = co_await gate_.enter();
  result<void> done;
  {
    const in_flight_ranges::hold held = co_await in_flight_.acquire(grains_around(range));
    done = co_await notify_before(range, kind);
    if (done) done = co_await change_held(range, kind, how);
    done = co_await notify_after(range, kind, {}, done);
  }
  if (done && fua) done = co_await active().flush();
  // Who asks for speed only is told that there is none; nothing has failed.
  if (!done && how.fast_only && done.error() == errc::not_supported) co_return done;
  report(kind == change_kind::zero ? "zero" : "discard", range, done);
  co_return done;
}

bool disk::has_fast_zero() const noexcept {
  return active().zeroes_fast();
}

task<result<void>> disk::zero(byte_range range, zero_flags flags) {
  const result<void> allowed = check_change(range);
  if (!allowed || range.empty()) co_return allowed;
  if (flags.fast_only && (!has_fast_zero() || grains_inside(range) != range)) co_return errc::not_supported;
  const bool punch = flags.may_punch && settings_.discard_unmap;
  const zeroing how{punch ? zero_mode::may_punch : zero_mode::keep_allocated, flags.fast_only};
  co_return co_await change(range, change_kind::zero, how, flags.fua);
}

task<result<void>> disk::discard(byte_range range, write_flags flags) {
  const result<void> allowed = check_change(range);
  if (!allowed || range.empty()) co_return allowed;
  if (!settings_.discard_unmap) co_return result<void>{};
  const zeroing unused{zero_mode::may_punch, false};
  co_return co_await change(range, change_kind::discard, unused, flags.fua);
}

task<result<void>> disk::flush() {
  gate::pass pass;
  if (!gate_.try_enter(pass)) pass = co_await gate_.enter();
  if (settings_.read_only) co_return result<void>{};
  const result<void> done = co_await active().flush();
  const byte_range everything{0, size()};
  report("flush", everything, done);
  co_return done;
}

task<result<std::vector<status_run>>> disk::status(byte_range range, std::size_t most_runs) {
  if (!fits(range.offset, range.length, size())) co_return errc::out_of_range;
  gate::pass pass;
  if (!gate_.try_enter(pass)) pass = co_await gate_.enter();
  std::vector<status_run> runs;
  unsigned looks = 0;
  while (!range.empty()) {
    // Cached metadata answers without suspending, and neighbours that are alike make one run: let others run.
    if (++looks % looks_per_turn == 0) co_await next_turn(resources_.context);
    const depth_range everywhere;
    const result<located_extent> found = co_await chain_->lookup(range, everywhere, map_effort::status);
    if (!found) co_return found.error();
    const auto depth = static_cast<std::uint32_t>(found->owner != nullptr ? found->depth + 1 : 0);
    const status_run run{found->length(), depth, found->found.extent.kind == extent_kind::zero};
    if (!runs.empty() && runs.back().depth == run.depth && runs.back().zero == run.zero) {
      runs.back().length += run.length;
    } else if (runs.size() == most_runs) {
      break;
    } else {
      runs.push_back(run);
    }
    range = range_between(range.offset + run.length, range.end());
  }
  co_return runs;
}

task<result<populated>> disk::populate(byte_range range, std::size_t base_depth) {
  if (!fits(range.offset, range.length, size())) co_return errc::out_of_range;
  if (settings_.read_only) co_return errc::read_only;
  const gate::pass pass = co_await gate_.enter();
  const in_flight_ranges::hold held = co_await in_flight_.acquire(range);
  co_return co_await weir::populate(writing(), range, base_depth);
}

task<result<byte_range>> disk::find_to_populate(std::uint64_t from, std::size_t base_depth,
                                                std::uint64_t longest) {
  if (from > size()) co_return errc::out_of_range;
  const gate::pass pass = co_await gate_.enter();
  const byte_range within = range_between(from, size());
  co_return co_await weir::find_to_populate(writing(), within, base_depth, longest);
}

void disk::add_observer(change_observer& observer) {
  observers_.push_back(&observer);
}

void disk::remove_observer(change_observer& observer) noexcept {
  std::erase(observers_, &observer);
}

task<result<void>> disk::close() {
  co_await gate_.drain();
  result<void> flushed;
  if (!settings_.read_only) flushed = co_await active().flush();
  const result<void> closed = co_await chain_->close();
  co_return flushed ? closed : flushed;
}

}  // namespace weir
