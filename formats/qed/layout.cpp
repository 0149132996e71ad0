#include "formats/qed/layout.hpp"

#include <iterator>
#include <limits>
#include <utility>

namespace weir::qed {

bool occupancy::may_be_table(std::uint64_t offset, std::uint64_t file_bytes) const noexcept {
  if (!is_cluster(offset, file_bytes)) return false;
  const std::uint64_t last_cluster = shape_.table_bytes() - shape_.cluster_bytes;
  if (offset + last_cluster >= file_bytes) return false;
  return !l1_.overlaps({offset, shape_.table_bytes()});
}

void occupancy::set_tables(std::vector<std::uint64_t> offsets) {
  tables_ = std::move(offsets);
  std::ranges::sort(tables_);
}

bool occupancy::is_sound_table(std::uint64_t offset) const noexcept {
  const auto found = std::ranges::lower_bound(tables_, offset);
  if (found == tables_.end() || *found != offset) return false;
  if (found != tables_.begin() && offset - *std::prev(found) < shape_.table_bytes()) return false;
  const auto next = std::next(found);
  return next == tables_.end() || *next - offset >= shape_.table_bytes();
}

std::optional<std::uint64_t> occupancy::find_aliased_table() const noexcept {
  const auto overlaps = [this](std::uint64_t first, std::uint64_t second) {
    return second - first < shape_.table_bytes();
  };
  const auto found = std::ranges::adjacent_find(tables_, overlaps);
  if (found == tables_.end()) return std::nullopt;
  return *found;
}

bool occupancy::may_be_data(std::uint64_t offset, std::uint64_t file_bytes) const noexcept {
  if (!is_cluster(offset, file_bytes) || l1_.contains(offset)) return false;
  const auto behind = std::ranges::upper_bound(tables_, offset);
  return behind == tables_.begin() || offset - *std::prev(behind) >= shape_.table_bytes();
}

std::optional<free_space::piece> free_space::take(std::uint64_t length) noexcept {
  if (!fits(next_, length, std::numeric_limits<std::int64_t>::max())) return std::nullopt;
  const piece taken{{next_, length}, next_ >= fresh_from_};
  next_ += length;
  fresh_from_ = std::max(fresh_from_, next_);
  return taken;
}

std::optional<free_space::piece> free_space::take_fresh(std::uint64_t length) noexcept {
  next_ = fresh_from_;
  return take(length);
}

}  // namespace weir::qed
