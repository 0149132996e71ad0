#include "formats/qcow2/header_layout.hpp"

#include "engine/base/endian.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

namespace weir::qcow2 {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint32_t new_v3_header_length = 112;
constexpr std::uint64_t longest_format_name = 15;

struct named_feature {
  std::uint8_t kind;  // 0 incompatible, 1 compatible, 2 autoclear
  std::uint8_t bit;
  std::string_view name;
};

// With a backing format these seven leave the extensions inside sector 0.
constexpr std::array<named_feature, 7> feature_names{{{0, 0, "dirty bit"},
                                                      {0, 1, "corrupt bit"},
                                                      {0, 2, "external data file"},
                                                      {0, 3, "compression type"},
                                                      {0, 4, "extended L2 entries"},
                                                      {1, 0, "lazy refcounts"},
                                                      {2, 0, "bitmaps"}}};

void put_text(bytes& into, std::uint64_t at, std::string_view text) {
  std::memcpy(into.data() + at, text.data(), text.size());
}

bytes make_extension(std::uint32_t type, std::string_view data) {
  bytes made(static_cast<std::size_t>(align_up(8 + data.size(), 8)));
  store_big(made.data(), type);
  store_big(made.data() + 4, static_cast<std::uint32_t>(data.size()));
  put_text(made, 8, data);
  return made;
}

bytes make_feature_names() {
  std::string table;
  for (const named_feature& each : feature_names) {
    std::string entry(48, '\0');
    entry[0] = static_cast<char>(each.kind);
    entry[1] = static_cast<char>(each.bit);
    entry.replace(2, each.name.size(), each.name);
    table += entry;
  }
  return make_extension(feature_names_extension, table);
}

void append(bytes& into, std::span<const std::byte> more) {
  into.insert(into.end(), more.begin(), more.end());
}

void put_fixed_fields(bytes& cluster, const header& wanted) {
  std::byte* at = cluster.data();
  store_big(at, magic);
  store_big(at + 4, static_cast<std::uint32_t>(wanted.shape.version));
  store_big(at + 20, static_cast<std::uint32_t>(wanted.shape.cluster_bits));
  store_big(at + 24, wanted.virtual_size);
  store_big(at + 36, wanted.l1_count);
  store_big(at + 40, wanted.l1_offset);
  store_big(at + field::refcount_table, wanted.refcount_table_offset);
  store_big(at + 56, wanted.refcount_table_clusters);
  if (wanted.shape.version < 3) return;
  store_big(at + field::incompatible, wanted.incompatible);
  store_big(at + 80, wanted.compatible);
  store_big(at + field::autoclear, wanted.autoclear);
  store_big(at + 96, static_cast<std::uint32_t>(wanted.shape.refcount_order));
  store_big(at + 100, new_v3_header_length);
  cluster[104] = static_cast<std::byte>(wanted.compression);
}

void put_backing(bytes& cluster, std::uint64_t offset, std::string_view name) {
  store_big(cluster.data() + field::backing_offset, name.empty() ? std::uint64_t{0} : offset);
  store_big(cluster.data() + field::backing_offset + 8, static_cast<std::uint32_t>(name.size()));
  put_text(cluster, offset, name);
}

result<void> check_expressible(const std::optional<backing_reference>& wanted) {
  if (!wanted) return {};
  const bool name_sound = !wanted->name.empty() && wanted->name.size() <= longest_backing_name;
  const bool format_sound = wanted->format.size() <= longest_format_name;
  const bool texts_sound = !wanted->name.contains('\0') && !wanted->format.contains('\0');
  if (!name_sound || !format_sound || !texts_sound) return errc::out_of_range;
  return {};
}

/// One change of the backing image.
class change {
 public:
  change(std::span<const std::byte> cluster, const header& current,
         const std::optional<backing_reference>& wanted)
      : old_(cluster.begin(), cluster.end()), current_(current) {
    if (wanted) name_ = wanted->name;
    if (wanted && !wanted->format.empty()) format_ = make_extension(backing_format_extension, wanted->format);
    old_format_ = current.find(backing_format_extension);
  }

  result<std::vector<header_step>> plan() {
    next_ = old_;
    ends_ = current_.extensions_end;
    if (!change_in_place() && !insert_in_front()) return plan_append();
    const auto placed = place_name();
    if (!placed) return placed.error();
    prepare();
    switch_sector(0);
    clear_unused();
    return std::move(steps_);
  }

 private:
  bool change_in_place();
  bool insert_in_front();
  result<std::vector<header_step>> plan_append();
  result<void> place_name();
  void prepare();
  void switch_sector(std::uint64_t sector);
  void clear_unused();

  byte_range old_name() const { return {current_.backing_offset, current_.backing_length}; }
  byte_range old_extensions() const { return range_between(current_.header_length, current_.extensions_end); }
  const extension* place_for_format() const;

  bytes old_;
  const header& current_;
  std::string name_;
  bytes format_;  // the new extension; empty: none
  const extension* old_format_ = nullptr;

  bytes next_;              // cluster 0 as it will be
  std::uint64_t ends_ = 0;  // of the new extensions
  byte_range new_name_;
  std::vector<header_step> steps_;
};

/// The extension in sector 0 whose bytes the new format can take exactly.
const extension* change::place_for_format() const {
  for (const extension& each : current_.extensions) {
    const bool reusable = &each == old_format_ || (old_format_ == nullptr && each.type == filler_extension);
    if (reusable && each.end() <= sector_bytes && each.end() - each.begin() == format_.size()) return &each;
  }
  return nullptr;
}

bool change::change_in_place() {
  if (!current_.has_end_marker) return false;  // the old name ends the list, and that is about to move
  if (format_.empty() && old_format_ == nullptr) return true;
  if (format_.empty()) {
    // Without a backing name a recorded format means nothing and may stay.
    if (old_format_->end() > sector_bytes) return name_.empty();
    store_big(next_.data() + old_format_->begin(), filler_extension);
    return true;
  }
  const extension* place = place_for_format();
  if (place == nullptr) return false;
  std::ranges::copy(format_, next_.begin() + static_cast<std::ptrdiff_t>(place->begin()));
  return true;
}

bool change::insert_in_front() {
  if (current_.extensions_end > sector_bytes) return false;
  bytes list = format_;
  for (const extension& each : current_.extensions) {
    if (&each == old_format_ || each.type == filler_extension) continue;
    append(list, std::span(old_).subspan(each.begin(), each.end() - each.begin()));
  }
  append(list, bytes(8));  // the end marker
  const std::uint64_t begin = current_.header_length;
  if (!fits(begin, list.size(), next_.size())) return false;
  const byte_range beyond = range_between(std::min(sector_bytes, begin + list.size()), begin + list.size());
  if (!beyond.empty() && beyond.end() > sector_bytes && beyond.overlaps(old_name())) return false;
  std::ranges::copy(list, next_.begin() + static_cast<std::ptrdiff_t>(begin));
  ends_ = begin + list.size();
  return true;
}

/// The new name goes behind the extensions and must not touch the old name outside sector 0.
result<void> change::place_name() {
  if (name_.empty()) {
    put_backing(next_, 0, name_);
    return {};
  }
  const std::uint64_t size = next_.size();
  const auto usable = [&](std::uint64_t at) {
    const byte_range outside = intersection({at, name_.size()}, {sector_bytes, size});
    return fits(at, name_.size(), size) && (outside.empty() || !outside.overlaps(old_name()));
  };
  for (const std::uint64_t at : {ends_, align_up(std::max(ends_, old_name().end()), 8)}) {
    if (!usable(at)) continue;
    new_name_ = {at, name_.size()};
    put_backing(next_, at, name_);
    return {};
  }
  return errc::name_too_long;
}

/// Everything behind sector 0, none of which the old header refers to.
void change::prepare() {
  if (next_.size() > sector_bytes &&
      !std::equal(next_.begin() + sector_bytes, next_.end(), old_.begin() + sector_bytes)) {
    steps_.push_back({sector_bytes, bytes(next_.begin() + sector_bytes, next_.end())});
  }
}

void change::switch_sector(std::uint64_t sector) {
  const auto first = next_.begin() + static_cast<std::ptrdiff_t>(sector * sector_bytes);
  steps_.push_back({sector * sector_bytes, bytes(first, first + sector_bytes)});
}

void change::clear_unused() {
  bytes clean(next_.size());
  const auto keep = [&](byte_range range) {
    std::memcpy(clean.data() + range.offset, next_.data() + range.offset,
                static_cast<std::size_t>(range.length));
  };
  keep({0, std::max<std::uint64_t>(ends_, current_.header_length)});
  keep(new_name_);
  if (clean != next_) steps_.push_back({0, std::move(clean)});
}

/// Old extensions reach beyond sector 0 and leave no room: name first, then the format behind the last one.
result<std::vector<header_step>> change::plan_append() {
  if (old_format_ != nullptr || !current_.has_end_marker) return errc::name_too_long;
  const std::uint64_t marker = current_.extensions_end - 8;
  const std::uint64_t end = marker + format_.size() + 8;
  const bool one_sector = marker / sector_bytes == (end - 1) / sector_bytes;
  if (!one_sector || end > next_.size()) return errc::name_too_long;
  ends_ = end;
  if (range_between(current_.extensions_end, end).overlaps(old_name())) return errc::name_too_long;
  const auto placed = place_name();
  if (!placed) return placed.error();
  prepare();
  switch_sector(0);
  std::ranges::copy(format_, next_.begin() + static_cast<std::ptrdiff_t>(marker));
  std::fill_n(next_.begin() + static_cast<std::ptrdiff_t>(end - 8), 8, std::byte{0});
  switch_sector(marker / sector_bytes);
  clear_unused();
  return std::move(steps_);
}

}  // namespace

result<std::vector<std::byte>> lay_out_header(const header& wanted) {
  const result<void> expressible = check_expressible(wanted.backing);
  if (!expressible) return expressible.error();
  const std::string name = wanted.backing ? wanted.backing->name : std::string();
  bytes required;
  if (wanted.backing && !wanted.backing->format.empty()) {
    required = make_extension(backing_format_extension, wanted.backing->format);
  }
  if (wanted.shape.external_data) append(required, make_extension(data_file_extension, wanted.data_file));
  const bytes names = wanted.shape.version >= 3 ? make_feature_names() : bytes();
  const std::uint64_t begin = wanted.shape.version >= 3 ? new_v3_header_length : v2_header_length;
  const std::uint64_t cluster_size = wanted.shape.cluster_size();
  const std::uint64_t without_names = begin + required.size() + 8 + name.size();
  if (without_names > cluster_size) return errc::name_too_long;
  bytes cluster(begin);
  cluster.resize(static_cast<std::size_t>(begin));
  append(cluster, required);
  // The names are a courtesy to readers that meet unknown bits: left out where they do not fit.
  if (without_names + names.size() <= cluster_size) append(cluster, names);
  const std::uint64_t name_at = cluster.size() + 8;
  cluster.resize(static_cast<std::size_t>(cluster_size));
  put_fixed_fields(cluster, wanted);
  put_backing(cluster, name_at, name);
  return cluster;
}

result<std::vector<header_step>> plan_backing_change(std::span<const std::byte> cluster,
                                                     const header& current,
                                                     const std::optional<backing_reference>& wanted) {
  const result<void> expressible = check_expressible(wanted);
  if (!expressible) return expressible.error();
  return change(cluster, current, wanted).plan();
}

}  // namespace weir::qcow2
