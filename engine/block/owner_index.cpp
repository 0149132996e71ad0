#include "engine/block/owner_index.hpp"

#include <algorithm>

namespace weir {
namespace {

/// A list node, a hash node and their pointers.
constexpr std::size_t region_overhead_bytes = 128;

}  // namespace

std::optional<owner_index::owned> owner_index::find(std::uint64_t offset) noexcept {
  const auto found = by_number_.find(offset / region_bytes);
  if (found == by_number_.end()) return std::nullopt;
  if (found->second != recent_first_.begin()) {
    recent_first_.splice(recent_first_.begin(), recent_first_, found->second);
  }
  const std::vector<run>& runs = found->second->runs;
  const auto inside = static_cast<std::uint32_t>(offset % region_bytes);
  const auto behind = std::ranges::upper_bound(runs, inside, {}, &run::offset);
  if (behind == runs.begin()) return std::nullopt;
  const run& holds = *std::prev(behind);
  if (holds.end() <= inside) return std::nullopt;
  const run rest = part_of(holds, inside, holds.end());
  return owned{.guest = {offset, rest.length},
               .depth = rest.depth,
               .kind = rest.kind,
               .storage_index = rest.storage_index,
               .host_offset = rest.host_offset};
}

owner_index::run owner_index::part_of(const run& whole, std::uint32_t from, std::uint32_t to) noexcept {
  run part = whole;
  if (part.kind == extent_kind::data) part.host_offset += from - whole.offset;
  part.offset = from;
  part.length = to - from;
  return part;
}

bool owner_index::follows(const run& first, const run& next) noexcept {
  if (first.end() != next.offset || first.depth != next.depth || first.kind != next.kind) return false;
  if (first.kind != extent_kind::data) return true;
  return first.storage_index == next.storage_index && first.host_offset + first.length == next.host_offset;
}

std::size_t owner_index::bytes_of(const region& which) noexcept {
  return region_overhead_bytes + which.runs.capacity() * sizeof(run);
}

void owner_index::insert(std::vector<run>& runs, std::size_t at, const run& added) {
  const bool joins_left = at > 0 && follows(runs[at - 1], added);
  const bool joins_right = at < runs.size() && follows(added, runs[at]);
  const auto place = runs.begin() + static_cast<std::ptrdiff_t>(at);
  if (joins_left && joins_right) {
    runs[at - 1].length += added.length + runs[at].length;
    runs.erase(place);
  } else if (joins_left) {
    runs[at - 1].length += added.length;
  } else if (joins_right) {
    const std::uint32_t end = runs[at].end();
    runs[at] = added;
    runs[at].length = end - added.offset;
  } else {
    runs.insert(place, added);
  }
}

void owner_index::learn(const owned& answer) {
  const byte_range guest = answer.guest;
  for (std::uint64_t at = guest.offset; at < guest.end(); at = region_of(at).end()) {
    const std::uint64_t end = std::min(guest.end(), region_of(at).end());
    const run whole{.offset = static_cast<std::uint32_t>(at % region_bytes),
                    .length = static_cast<std::uint32_t>(end - at),
                    .depth = answer.depth,
                    .kind = answer.kind,
                    .storage_index = answer.storage_index,
                    .host_offset = answer.host_offset + (at - guest.offset)};
    learn(at / region_bytes, whole);
  }
  evict();
}

void owner_index::learn(std::uint64_t number, const run& whole) {
  region& into = need(number);
  size_bytes_ -= bytes_of(into);
  std::vector<run>& runs = into.runs;
  for (std::uint32_t from = whole.offset; from < whole.end();) {
    const auto behind = std::ranges::upper_bound(runs, from, {}, &run::offset);
    if (behind != runs.begin() && std::prev(behind)->end() > from) {
      from = std::prev(behind)->end();
      continue;
    }
    const std::uint32_t to = behind == runs.end() ? whole.end() : std::min(whole.end(), behind->offset);
    insert(runs, static_cast<std::size_t>(behind - runs.begin()), part_of(whole, from, to));
    from = to;
  }
  size_bytes_ += bytes_of(into);
}

owner_index::region& owner_index::need(std::uint64_t number) {
  const auto found = by_number_.find(number);
  if (found != by_number_.end()) return *found->second;
  recent_first_.push_front({number, {}});
  by_number_.emplace(number, recent_first_.begin());
  size_bytes_ += bytes_of(recent_first_.front());
  return recent_first_.front();
}

void owner_index::evict() {
  while (size_bytes_ > limit_bytes_ && recent_first_.size() > 1) {
    size_bytes_ -= bytes_of(recent_first_.back());
    by_number_.erase(recent_first_.back().number);
    recent_first_.pop_back();
  }
}

void owner_index::clear() noexcept {
  by_number_.clear();
  recent_first_.clear();
  size_bytes_ = 0;
}

}  // namespace weir
