#include "formats/qcow2/header_bitmaps.hpp"

#include "engine/base/endian.hpp"

#include <algorithm>
#include <set>

namespace weir::qcow2 {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t feature_name_bytes = 48;
constexpr std::uint64_t whole_extension_bytes = 8 + bitmaps_extension_bytes;

void append(bytes& into, std::span<const std::byte> more) {
  into.insert(into.end(), more.begin(), more.end());
}

bytes make_extension(const bitmaps_place& place) {
  bytes made(whole_extension_bytes);
  store_big(made.data(), bitmaps_extension_type);
  store_big(made.data() + 4, static_cast<std::uint32_t>(bitmaps_extension_bytes));
  lay_out_bitmaps_extension(std::span(made).subspan(8), place);
  return made;
}

class change {
 public:
  change(std::span<const std::byte> cluster, const header& current)
      : old_(cluster.begin(), cluster.end()), next_(old_), current_(current) {}

  result<std::vector<header_step>> plan(const std::optional<bitmaps_place>& wanted);

 private:
  bool put(const bitmaps_place& place);
  bool rebuild_in_first_sector(const bitmaps_place& place);
  bool append_at_end(const bitmaps_place& place);
  bytes shortened(const extension& names, std::uint64_t room) const;
  bool move_name(std::uint64_t offset);
  void withdraw();
  /// Nothing of the backing name lies in [header_length, end).
  bool is_clear_of_name(std::uint64_t end) const {
    return current_.backing_offset < current_.header_length || current_.backing_offset >= end;
  }
  static void set_bit(bytes& cluster, bool on) {
    const auto bits = load_big<std::uint64_t>(cluster.data() + field::autoclear);
    store_big(cluster.data() + field::autoclear, on ? bits | bitmaps_bit : bits & ~bitmaps_bit);
  }
  std::vector<header_step> steps() const;
  static header_step sector_of(const bytes& cluster, std::uint64_t sector) {
    const auto first = cluster.begin() + static_cast<std::ptrdiff_t>(sector * sector_bytes);
    return {sector * sector_bytes, bytes(first, first + sector_bytes)};
  }

  bytes old_;
  bytes next_;
  const header& current_;
};

/// The extension becomes one that nobody knows, so that those behind it stay where they are.
void change::withdraw() {
  set_bit(next_, false);
  if (const extension* known = current_.find(bitmaps_extension_type)) {
    store_big(next_.data() + known->begin(), filler_extension);
  }
}

bool change::put(const bitmaps_place& place) {
  const bytes made = make_extension(place);
  for (const extension& each : current_.extensions) {
    const bool reusable = each.type == bitmaps_extension_type || each.type == filler_extension;
    if (!reusable || each.data.length != bitmaps_extension_bytes) continue;
    std::ranges::copy(made, next_.begin() + static_cast<std::ptrdiff_t>(each.begin()));
    return true;
  }
  return rebuild_in_first_sector(place) || append_at_end(place);
}

bool change::rebuild_in_first_sector(const bitmaps_place& place) {
  bytes list = make_extension(place);
  const extension* names = nullptr;
  for (const extension& each : current_.extensions) {
    if (each.type == feature_names_extension) names = &each;
    const bool kept = each.type != feature_names_extension && each.type != filler_extension &&
                      each.type != bitmaps_extension_type;
    if (kept) append(list, std::span(old_).subspan(each.begin(), each.end() - each.begin()));
  }
  const std::uint64_t begin = current_.header_length;
  const std::uint64_t end = begin + list.size() + 8;
  if (end > sector_bytes) return false;
  std::uint64_t limit = sector_bytes;
  if (is_clear_of_name(end)) {
    if (current_.backing_offset >= end) limit = std::min(limit, current_.backing_offset);
    if (names != nullptr) append(list, shortened(*names, limit - end));
  } else if (!move_name(end)) {
    return false;
  }
  const std::uint64_t written = begin + list.size() + 8;
  std::ranges::copy(list, next_.begin() + static_cast<std::ptrdiff_t>(begin));
  std::fill_n(next_.begin() + static_cast<std::ptrdiff_t>(written - 8), 8, std::byte{0});
  return true;
}

/// As many of the feature names as `room` bytes hold; nothing where it holds none.
bytes change::shortened(const extension& names, std::uint64_t room) const {
  if (room < 8 + feature_name_bytes) return {};
  const std::uint64_t count =
      std::min((room - 8) / feature_name_bytes, names.data.length / feature_name_bytes);
  if (count == 0) return {};
  const auto first = old_.begin() + static_cast<std::ptrdiff_t>(names.begin());
  bytes kept(first, first + static_cast<std::ptrdiff_t>(8 + count * feature_name_bytes));
  store_big(kept.data() + 4, static_cast<std::uint32_t>(count * feature_name_bytes));
  return kept;
}

/// The backing name goes to `offset`. What of it lies outside sector 0 is written before the switch, so it may not
/// touch the old name there.
bool change::move_name(std::uint64_t offset) {
  const byte_range old_name{current_.backing_offset, current_.backing_length};
  const byte_range new_name{offset, old_name.length};
  const byte_range outside{sector_bytes, next_.size() - sector_bytes};
  if (!fits(new_name.offset, new_name.length, next_.size())) return false;
  const byte_range touched = intersection(new_name, outside);
  if (!touched.empty() && touched.overlaps(old_name)) return false;
  std::copy_n(old_.begin() + static_cast<std::ptrdiff_t>(old_name.offset), old_name.length,
              next_.begin() + static_cast<std::ptrdiff_t>(offset));
  store_big(next_.data() + field::backing_offset, offset);
  return true;
}

bool change::append_at_end(const bitmaps_place& place) {
  if (!current_.has_end_marker) return false;
  const std::uint64_t marker = current_.extensions_end - 8;
  const std::uint64_t end = marker + whole_extension_bytes + 8;
  if (end > next_.size() || !is_clear_of_name(end)) return false;
  const auto at = next_.begin() + static_cast<std::ptrdiff_t>(marker);
  std::ranges::copy(make_extension(place), at);
  std::fill_n(at + whole_extension_bytes, 8, std::byte{0});
  return true;
}

std::vector<header_step> change::steps() const {
  std::set<std::uint64_t, std::greater<>> sectors;
  for (std::uint64_t at = 0; at < next_.size(); ++at) {
    if (next_[at] != old_[at]) sectors.insert(at / sector_bytes);
  }
  std::vector<header_step> made;
  const bool was_set = (load_big<std::uint64_t>(old_.data() + field::autoclear) & bitmaps_bit) != 0;
  const bool spreads = sectors.size() > 1 || (sectors.size() == 1 && !sectors.contains(0) && !was_set);
  if (spreads && was_set) {
    bytes invalid = old_;
    set_bit(invalid, false);
    made.push_back(sector_of(invalid, 0));
    sectors.insert(0);
  }
  for (const std::uint64_t sector : sectors) made.push_back(sector_of(next_, sector));
  return made;
}

result<std::vector<header_step>> change::plan(const std::optional<bitmaps_place>& wanted) {
  if (!wanted) {
    withdraw();
    return steps();
  }
  set_bit(next_, true);
  if (!put(*wanted)) return errc::name_too_long;
  return steps();
}

}  // namespace

result<std::vector<header_step>> plan_bitmaps_change(std::span<const std::byte> cluster,
                                                     const header& current,
                                                     const std::optional<bitmaps_place>& wanted) {
  return change(cluster, current).plan(wanted);
}

}  // namespace weir::qcow2
