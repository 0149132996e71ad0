// A qcow2 image with persistent bitmaps on a simulated disk, and what each of them must say.
//
// After a power loss a bitmap may be missing its last store, but never lie: it is inconsistent, or it says exactly what
// it said when it was stored, and then either nothing has changed since or it did not record.
#pragma once

#include "engine/block/bitmap_store.hpp"
#include "tests/support/qcow2_world.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

namespace weir::test {

class bitmap_world {
 public:
  struct known {
    std::string name;
    std::uint64_t granularity = 0;
    bool enabled = false;
    std::vector<bool> bits = {};
    friend bool operator==(const known&, const known&) = default;
  };

  explicit bitmap_world(const qcow2_settings& settings) : base(settings) {
    base.set_bitmap_care(bitmap_care::record);
  }

  void open() {
    ASSERT_NO_FATAL_FAILURE(base.open());
    expect_bitmaps(*base.target().bitmaps(), now_);
  }

  /// False where the format has no bitmaps (version 2).
  bool has_bitmaps() { return base.target().bitmaps() != nullptr; }

  void step() {
    if (base.draw(3) == 0) return manage();
    const std::uint64_t first = base.draw(base.oracle().count());
    const std::uint64_t most = std::min<std::uint64_t>(base.oracle().count() - first, 1 + base.draw(60));
    change(first, 1 + base.draw(most));
  }

  /// A change of content, shown to the bitmaps.
  void change(std::uint64_t first, std::uint64_t count) {
    const byte_range range{first * world_sector, count * world_sector};
    const std::uint64_t kind = base.draw(8);
    if (kind == 0) return base.flush();
    const result<void> begun = run(base.io(), store().begin_change());
    if (!begun) return expect_power_is_off(begun.error().message());
    changed_ = true;
    if (kind == 1) {
      base.zero(first, count);
    } else if (kind == 2) {
      base.discard(first, count);
    } else {
      base.write(first, count);
    }
    store().record(range);
    for (known& each : now_) {
      if (each.enabled) set(each, range);
    }
  }

  /// Stores without closing, as a management command does.
  void store_now() {
    pending_ = now_;
    const outcome<void> done = run(base.io(), store().store());
    if (!done) return expect_power_is_off(done.error().what);
    settle();
  }

  void close() {
    pending_ = now_;
    const result<void> closed = base.close();
    if (!closed) return expect_power_is_off(closed.error().message());
    settle();
  }

  void expect_survival(std::uint64_t survival) {
    base.expect_survival(survival);
    if (testing::Test::HasFailure()) return;
    simulated_disk survivor = base.disk().after_power_loss(survival);
    const std::unique_ptr<image> reader = base.open_reader(survivor);
    ASSERT_NE(reader, nullptr);
    bitmap_store& found = *reader->bitmaps();
    ASSERT_TRUE(has_names(found, stored_) || (pending_ && has_names(found, *pending_)))
        << "other bitmaps than any stored";
    for (const kept_bitmap& each : found.bitmaps()) {
      if (each.inconsistent) continue;
      const known as_found = read(found, each);
      EXPECT_TRUE(is_possible(as_found)) << each.name << " lies";
    }
    EXPECT_TRUE(run(base.io(), reader->close()).has_value());
  }

  qcow2_world base;

 private:
  bitmap_store& store() { return *base.target().bitmaps(); }

  void manage() {
    const std::uint64_t kind = base.draw(7);
    if (now_.empty() || (kind < 2 && now_.size() < 5)) return add();
    known& chosen = now_[base.draw(now_.size())];
    outcome<void> done;
    if (kind == 2) {
      done = store().remove(chosen.name);
      const std::string name = chosen.name;
      std::erase_if(now_, [&](const known& each) { return each.name == name; });
    } else if (kind == 3) {
      done = run(base.io(), store().clear(chosen.name));
      if (done) chosen.bits.assign(chosen.bits.size(), false);
    } else if (kind == 4) {
      merge(chosen);
    } else if (kind == 5) {
      store_now();
    } else {
      done = run(base.io(), store().set_enabled(chosen.name, !chosen.enabled));
      if (done) chosen.enabled = !chosen.enabled;
    }
    if (!done) expect_power_is_off(done.error().what);
  }

  void add() {
    const std::uint64_t granularity = std::uint64_t{512} << base.draw(8);
    known made{.name = "bitmap " + std::to_string(++last_name_), .granularity = granularity};
    if (base.draw(8) == 0) made.name.resize(1023, 'n');
    made.enabled = base.draw(3) != 0;
    made.bits.resize(static_cast<std::size_t>((base.size() + granularity - 1) / granularity));
    const outcome<void> added = store().add(made.name, granularity, made.enabled);
    ASSERT_TRUE(added.has_value()) << added.error().what;
    now_.push_back(std::move(made));
  }

  void merge(known& into) {
    const known from = now_[base.draw(now_.size())];
    const outcome<const dirty_bitmap*> bits = run(base.io(), store().load(from.name));
    if (!bits) return expect_power_is_off(bits.error().what);
    const dirty_bitmap copy = **bits;
    const outcome<void> done = run(base.io(), store().merge(into.name, copy));
    if (!done) return expect_power_is_off(done.error().what);
    for (std::size_t bit = 0; bit < from.bits.size(); ++bit) {
      if (from.bits[bit]) set(into, {bit * from.granularity, from.granularity});
    }
  }

  void set(known& into, byte_range range) {
    range = intersection(range, {0, base.size()});
    for (std::uint64_t at = range.offset / into.granularity; at * into.granularity < range.end(); ++at) {
      into.bits[static_cast<std::size_t>(at)] = true;
    }
  }

  void settle() {
    stored_ = now_;
    pending_.reset();
    changed_ = false;
  }

  known read(bitmap_store& from, const kept_bitmap& wanted) {
    known made{.name = wanted.name, .granularity = wanted.granularity, .enabled = wanted.enabled};
    made.bits.resize(static_cast<std::size_t>((base.size() + wanted.granularity - 1) / wanted.granularity));
    const outcome<const dirty_bitmap*> bits = run(base.io(), from.load(wanted.name));
    if (!bits) {
      ADD_FAILURE() << bits.error().what;
      return made;
    }
    for (std::size_t bit = 0; bit < made.bits.size(); ++bit) {
      made.bits[bit] = (*bits)->is_set(bit * wanted.granularity);
    }
    return made;
  }

  void expect_bitmaps(bitmap_store& found, const std::vector<known>& wanted) {
    std::vector<known> all;
    for (const kept_bitmap& each : found.bitmaps()) {
      EXPECT_FALSE(each.inconsistent) << each.name;
      all.push_back(read(found, each));
    }
    EXPECT_TRUE(all == wanted) << "the bitmaps are not as they were stored";
  }

  static bool has_names(const bitmap_store& found, const std::vector<known>& wanted) {
    return std::ranges::equal(found.bitmaps(), wanted, {}, &kept_bitmap::name, &known::name);
  }

  bool is_possible(const known& found) const {
    const bool is_new = pending_ && std::ranges::find(*pending_, found) != pending_->end();
    const bool is_old = std::ranges::find(stored_, found) != stored_.end();
    return is_new || (is_old && !(changed_ && found.enabled));
  }

  void expect_power_is_off(const std::string& what) { EXPECT_FALSE(base.power().on()) << what; }

  std::vector<known> now_;
  std::vector<known> stored_;
  std::optional<std::vector<known>> pending_;  // a store is under way
  bool changed_ = false;                       // content, since the last store
  int last_name_ = 0;
};

}  // namespace weir::test
