#include "tests/support/bitmap_world.hpp"

#include <algorithm>
#include <utility>

namespace weir::test {

bitmap_world::bitmap_world(const qcow2_settings& settings) : base(settings) {
  base.set_bitmap_care(bitmap_care::record);
}

void bitmap_world::open() {
  ASSERT_NO_FATAL_FAILURE(base.open());
  expect_bitmaps(*base.target().bitmaps(), now_);
}

void bitmap_world::step() {
  if (base.draw(3) == 0) return manage();
  const std::uint64_t first = base.draw(base.oracle().count());
  const std::uint64_t most = std::min<std::uint64_t>(base.oracle().count() - first, 1 + base.draw(60));
  change(first, 1 + base.draw(most));
}

void bitmap_world::change(std::uint64_t first, std::uint64_t count) {
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

void bitmap_world::store_now() {
  pending_ = now_;
  const outcome<void> done = run(base.io(), store().store());
  if (!done) return expect_power_is_off(done.error().what);
  settle();
}

void bitmap_world::close() {
  pending_ = now_;
  const result<void> closed = base.close();
  if (!closed) return expect_power_is_off(closed.error().message());
  settle();
}

void bitmap_world::expect_survival(std::uint64_t survival) {
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

void bitmap_world::manage() {
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

void bitmap_world::add() {
  const std::uint64_t granularity = std::uint64_t{512} << base.draw(8);
  known made{.name = "bitmap " + std::to_string(++last_name_), .granularity = granularity};
  if (base.draw(8) == 0) made.name.resize(1023, 'n');
  made.enabled = base.draw(3) != 0;
  made.bits.resize(static_cast<std::size_t>((base.size() + granularity - 1) / granularity));
  const outcome<void> added = store().add(made.name, granularity, made.enabled);
  ASSERT_TRUE(added.has_value()) << added.error().what;
  now_.push_back(std::move(made));
}

void bitmap_world::merge(known& into) {
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

void bitmap_world::set(known& into, byte_range range) {
  range = intersection(range, {0, base.size()});
  for (std::uint64_t at = range.offset / into.granularity; at * into.granularity < range.end(); ++at) {
    into.bits[static_cast<std::size_t>(at)] = true;
  }
}

void bitmap_world::settle() {
  stored_ = now_;
  pending_.reset();
  changed_ = false;
}

bitmap_world::known bitmap_world::read(bitmap_store& from, const kept_bitmap& wanted) {
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

void bitmap_world::expect_bitmaps(bitmap_store& found, const std::vector<known>& wanted) {
  std::vector<known> all;
  for (const kept_bitmap& each : found.bitmaps()) {
    EXPECT_FALSE(each.inconsistent) << each.name;
    all.push_back(read(found, each));
  }
  EXPECT_TRUE(all == wanted) << "the bitmaps are not as they were stored";
}

bool bitmap_world::has_names(const bitmap_store& found, const std::vector<known>& wanted) {
  return std::ranges::equal(found.bitmaps(), wanted, {}, &kept_bitmap::name, &known::name);
}

bool bitmap_world::is_possible(const known& found) const {
  const bool is_new = pending_ && std::ranges::find(*pending_, found) != pending_->end();
  const bool is_old = std::ranges::find(stored_, found) != stored_.end();
  return is_new || (is_old && !(changed_ && found.enabled));
}

}  // namespace weir::test
