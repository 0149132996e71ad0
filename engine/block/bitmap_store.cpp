#include "engine/block/bitmap_store.hpp"

#include <algorithm>
#include <utility>

namespace weir {
namespace {

constexpr std::string_view too_much_memory =
    "needs more memory than the 256 MiB that the bitmaps of an image may take";

}  // namespace

failure bitmap_store::refuse(std::string_view name, std::string_view why) const {
  return make_failure(errc::not_supported, location(),
                      "bitmap '" + std::string(name) + "' " + std::string(why));
}

const kept_bitmap* bitmap_store::find(std::string_view name) const noexcept {
  const auto found = std::ranges::find(bitmaps_, name, &kept_bitmap::name);
  return found == bitmaps_.end() ? nullptr : &*found;
}

outcome<kept_bitmap*> bitmap_store::find_usable(std::string_view name) {
  const auto found = std::ranges::find(bitmaps_, name, &kept_bitmap::name);
  if (found == bitmaps_.end()) return refuse(name, "does not exist");
  if (found->inconsistent) {
    return refuse(name, "is inconsistent: it was in use when its writer ended; it can only be removed");
  }
  return &*found;
}

bool bitmap_store::records() const noexcept {
  return std::ranges::any_of(
      bitmaps_, [](const kept_bitmap& each) { return each.enabled && !(each.inconsistent && each.in_use); });
}

outcome<void> bitmap_store::check_memory(std::string_view name, std::uint64_t granularity) const {
  if (loaded_bytes_ + bytes_of(granularity) <= most_bytes) return outcome<void>{};
  return refuse(name, too_much_memory);
}

task<outcome<dirty_bitmap*>> bitmap_store::load_bits(kept_bitmap& wanted) {
  if (!wanted.bits) {
    const outcome<void> fits_memory = check_memory(wanted.name, wanted.granularity);
    if (!fits_memory) co_return fits_memory.error();
    outcome<dirty_bitmap> loaded = co_await do_load(wanted);
    if (!loaded) co_return loaded.error();
    wanted.bits.emplace(std::move(*loaded));
    loaded_bytes_ += bytes_of(wanted.granularity);
  }
  co_return &*wanted.bits;
}

task<outcome<void>> bitmap_store::load_those(bool disabled_too) {
  for (kept_bitmap& each : bitmaps_) {
    if (each.inconsistent || !(each.enabled || disabled_too)) continue;
    const outcome<dirty_bitmap*> loaded = co_await load_bits(each);
    if (loaded) continue;
    if (loaded.error().code != errc::corrupt_image) co_return loaded.error();
    each.inconsistent = true;
  }
  co_return outcome<void>{};
}

task<outcome<void>> bitmap_store::load_recording() {
  return load_those(false);
}

task<result<void>> bitmap_store::begin_change() {
  if (marked_) co_return result<void>{};
  const result<void> done = co_await do_mark(bitmaps_, false);
  if (done) marked_ = true;
  co_return done;
}

void bitmap_store::record(byte_range range) noexcept {
  for (kept_bitmap& each : bitmaps_) {
    if (!each.enabled || !each.bits) continue;
    each.bits->set(range);
    each.changed = true;
  }
}

outcome<void> bitmap_store::add(std::string name, std::uint64_t granularity, bool enabled, bool persistent) {
  if (find(name) != nullptr) return refuse(name, "exists already");
  const std::string why = do_refuse(name, granularity);
  if (!why.empty()) return refuse(name, why);
  const outcome<void> fits_memory = check_memory(name, granularity);
  if (!fits_memory) return fits_memory;
  kept_bitmap made{.name = std::move(name), .granularity = granularity, .enabled = enabled, .changed = true};
  made.bits.emplace(disk_size(), granularity);
  made.transient = !persistent;
  loaded_bytes_ += bytes_of(granularity);
  // Those that are kept come first: what is stored is a prefix.
  const auto behind = std::ranges::find(bitmaps_, true, &kept_bitmap::transient);
  bitmaps_.insert(persistent ? behind : bitmaps_.end(), std::move(made));
  set_changed_ = set_changed_ || persistent;
  marked_ = false;
  return outcome<void>{};
}

outcome<void> bitmap_store::remove(std::string_view name) {
  const auto found = std::ranges::find(bitmaps_, name, &kept_bitmap::name);
  if (found == bitmaps_.end()) return refuse(name, "does not exist");
  if (found->bits) loaded_bytes_ -= bytes_of(found->granularity);
  set_changed_ = set_changed_ || !found->transient;
  bitmaps_.erase(found);
  return outcome<void>{};
}

task<outcome<const dirty_bitmap*>> bitmap_store::load(std::string name) {
  const outcome<kept_bitmap*> found = find_usable(name);
  if (!found) co_return found.error();
  const outcome<dirty_bitmap*> bits = co_await load_bits(**found);
  if (!bits) co_return bits.error();
  co_return *bits;
}

task<outcome<void>> bitmap_store::clear(std::string name) {
  const outcome<kept_bitmap*> found = find_usable(name);
  if (!found) co_return found.error();
  const outcome<dirty_bitmap*> bits = co_await load_bits(**found);
  if (!bits) co_return bits.error();
  (*bits)->clear({0, disk_size()});
  (*found)->changed = true;
  co_return outcome<void>{};
}

task<outcome<void>> bitmap_store::set_enabled(std::string name, bool enabled) {
  const outcome<kept_bitmap*> found = find_usable(name);
  if (!found) co_return found.error();
  const outcome<dirty_bitmap*> bits = co_await load_bits(**found);
  if (!bits) co_return bits.error();
  (*found)->enabled = enabled;
  (*found)->changed = true;
  marked_ = false;
  co_return outcome<void>{};
}

task<outcome<void>> bitmap_store::merge(std::string name, const dirty_bitmap& from) {
  const outcome<kept_bitmap*> found = find_usable(name);
  if (!found) co_return found.error();
  if (from.size() != disk_size())
    co_return refuse(name, "is of a disk of another size than the one merged into it");
  const outcome<dirty_bitmap*> bits = co_await load_bits(**found);
  if (!bits) co_return bits.error();
  std::uint64_t at = 0;
  while (const auto run = from.next_set(at, from.size())) {
    (*bits)->set(*run);
    at = run->end();
  }
  (*found)->changed = true;
  co_return outcome<void>{};
}

task<outcome<void>> bitmap_store::begin_resize(std::uint64_t size) {
  std::uint64_t bytes = 0;
  for (const kept_bitmap& each : bitmaps_) {
    if (each.inconsistent) continue;
    const std::string why = do_refuse_length(each.granularity, size);
    if (!why.empty()) co_return refuse(each.name, why);
    bytes += size / each.granularity / 8 + 8;
    if (bytes > most_bytes) co_return refuse(each.name, too_much_memory);
  }
  if (bitmaps_.empty()) co_return outcome<void>{};
  const outcome<void> loaded = co_await load_those(true);
  if (!loaded) co_return loaded;
  const result<void> marked = co_await do_mark(bitmaps_, true);
  if (!marked)
    co_return make_failure(marked.error(), location(), "its bitmaps could not be marked as in use");
  co_return outcome<void>{};
}

void bitmap_store::end_resize() {
  loaded_bytes_ = 0;
  for (kept_bitmap& each : bitmaps_) {
    if (!each.bits) continue;
    each.bits->resize(disk_size());
    each.changed = true;
    loaded_bytes_ += bytes_of(each.granularity);
  }
}

void bitmap_store::restore(saved_state saved) {
  bitmaps_ = std::move(saved.bitmaps);
  set_changed_ = saved.set_changed;
  marked_ = false;
  loaded_bytes_ = 0;
  for (const kept_bitmap& each : bitmaps_) loaded_bytes_ += each.bits ? bytes_of(each.granularity) : 0;
}

void bitmap_store::forget_changes() noexcept {
  for (kept_bitmap& each : bitmaps_) each.changed = false;
  set_changed_ = false;
}

task<outcome<void>> bitmap_store::store() {
  const auto behind = std::ranges::find(bitmaps_, true, &kept_bitmap::transient);
  const std::span<kept_bitmap> kept(bitmaps_.begin(), behind);
  const bool any = std::ranges::any_of(
      kept, [](const kept_bitmap& each) { return each.changed || (each.in_use && !each.inconsistent); });
  if (!any && !set_changed_) co_return outcome<void>{};
  const outcome<void> done = co_await do_store(kept);
  if (!done) co_return done;
  for (kept_bitmap& each : kept) {
    each.changed = false;
    each.in_use = each.in_use && each.inconsistent;
  }
  set_changed_ = false;
  marked_ = false;
  co_return done;
}

}  // namespace weir
