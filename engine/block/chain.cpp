#include "engine/block/chain.hpp"

#include "engine/storage/positional_io.hpp"

#include <cassert>

namespace weir {
namespace {

located_extent past_the_end(std::size_t depth, std::shared_ptr<layer> owner, std::uint64_t length) {
  located_extent answer{.depth = depth, .owner = std::move(owner), .found = {}};
  answer.found.extent.kind = extent_kind::zero;
  answer.found.extent.length = length;
  return answer;
}

/// What one walk may teach the index: what a piece of a qcow2 table in its default geometry tells. More would make
/// the first read slow where the layers' tables are cached whole.
constexpr std::uint64_t window_bytes = 32 * MiB;

byte_range window_of(std::uint64_t offset) noexcept {
  return {align_down(offset, window_bytes), window_bytes};
}

void clip(located_extent& found, std::uint64_t length) noexcept {
  found.found.extent.length = std::min(found.found.extent.length, length);
}

bool names_source(const layer_model& model, std::string_view spec) {
  return describe(model.source) == spec || model.source.path == spec ||
         (!model.recorded_name.empty() && model.recorded_name == spec);
}

}  // namespace

/// One lookup under way: the layer to ask next, and what the layers above left open.
class chain::walk {
 public:
  walk(const chain& owner, byte_range range, depth_range among)
      : chain_(owner), range_(range), depth_(among.first), last_(std::min(among.last, owner.depth())) {}

  /// The answer, if the layers asked so far settle it.
  std::optional<located_extent> settled() const {
    if (depth_ >= last_) {
      auto nobody = past_the_end(last_, nullptr, range_.length);
      if (last_ < chain_.depth()) nobody.found.extent.kind = extent_kind::unallocated;
      return nobody;
    }
    if (range_.offset >= layer_size()) return past_the_end(depth_, chain_.at(depth_), range_.length);
    return std::nullopt;
  }

  image& current() const { return *chain_.at(depth_)->image; }
  /// What to ask the current layer for.
  byte_range part() const { return intersection(range_, {0, layer_size()}); }

  /// Takes the current layer's answer; the located extent if it owns the range.
  std::optional<result<located_extent>> take(result<mapping> answer) {
    if (!answer) {
      if (chain_.on_error_) chain_.on_error_(*chain_.at(depth_), range_, answer.error());
      return answer.error();
    }
    if (answer->extent.kind != extent_kind::unallocated) {
      return located_extent{depth_, chain_.at(depth_), std::move(*answer)};
    }
    range_.length = answer->extent.length;
    ++depth_;
    return std::nullopt;
  }

 private:
  std::uint64_t layer_size() const { return current().virtual_size(); }

  const chain& chain_;
  byte_range range_;
  std::size_t depth_;
  std::size_t last_;
};

chain::chain(std::vector<std::shared_ptr<layer>> layers) : layers_(std::move(layers)) {
  assert(!layers_.empty());
  prepare_index();
}

chain::cached_answer chain::try_walk(byte_range range, depth_range among, map_effort effort) const {
  walk at(*this, range, among);
  while (true) {
    if (auto answer = at.settled()) return std::move(*answer);
    auto cached = at.current().try_map(at.part(), effort);
    if (!cached) return std::nullopt;
    if (auto answer = at.take(std::move(*cached))) return answer;
  }
}

task<result<located_extent>> chain::walk_down(byte_range range, depth_range among, map_effort effort) const {
  walk at(*this, range, among);
  while (true) {
    if (auto answer = at.settled()) co_return std::move(*answer);
    result<mapping> mapped = co_await at.current().map(at.part(), effort);
    if (auto answer = at.take(std::move(mapped))) co_return std::move(*answer);
  }
}

bool chain::is_in_memory(int descriptor) const {
  const auto at = static_cast<std::size_t>(descriptor);
  if (at >= in_memory_.size()) in_memory_.resize(at + 1);
  if (!in_memory_[at]) in_memory_[at] = weir::is_in_memory(descriptor);
  return *in_memory_[at];
}

// The index

void chain::prepare_index() {
  owners_.clear();
  in_memory_.clear();
  indexed_from_ = layers_.size();
  while (indexed_from_ > 0 && !layers_[indexed_from_ - 1]->image->writable()) --indexed_from_;
  // One layer answers as quickly as the index does.
  has_index_ = layers_.size() - indexed_from_ > 1;
  epochs_.clear();
  for (const std::shared_ptr<layer>& each : layers_) epochs_.push_back(each->image->epoch());
}

bool chain::uses_index(depth_range among) const noexcept {
  return has_index_ && among.first <= indexed_from_ && among.last > indexed_from_;
}

byte_range chain::to_be_learnt(byte_range wanted) const noexcept {
  const byte_range window = intersection(window_of(wanted.offset), {0, size()});
  return range_between(wanted.offset, std::max(wanted.end(), window.end()));
}

void chain::learn(const cached_answer& answer, byte_range asked) const {
  if (!answer || !*answer) return;
  const located_extent& found = **answer;
  const extent& what = found.found.extent;
  // Stopped above the base, the walk did not learn who owns it.
  if (what.kind == extent_kind::unallocated) return;
  owners_.learn({.guest = intersection({asked.offset, what.length}, window_of(asked.offset)),
                 .depth = static_cast<std::uint32_t>(found.depth),
                 .kind = what.kind,
                 .storage_index = what.storage_index,
                 .host_offset = what.host_offset});
}

std::optional<owner_index::owned> chain::recall(byte_range range) const {
  std::optional<owner_index::owned> known = owners_.find(range.offset);
  if (!known) return known;
  if (known->depth < layers_.size() && layers_[known->depth]->image->epoch() != epochs_[known->depth]) {
    owners_.clear();
    for (std::size_t depth = 0; depth < layers_.size(); ++depth)
      epochs_[depth] = layers_[depth]->image->epoch();
    return std::nullopt;
  }
  // Where only the region ends, whoever asks for more is better served by a walk than region by region.
  const std::uint64_t region_end = owner_index::region_of(range.offset).end();
  const bool is_cut = known->guest.end() == region_end && range.end() > region_end;
  if (is_cut && range.length > owner_index::region_bytes) return std::nullopt;
  return known;
}

/// Nothing where the owner has to be asked: for the place of an encoded unit, for the holes of a file.
std::optional<located_extent> chain::answer_from(const owner_index::owned& known, byte_range range,
                                                 std::size_t last, map_effort effort) const {
  const std::uint64_t length = std::min(known.guest.length, range.length);
  if (known.depth >= last) {
    auto nobody = past_the_end(last, nullptr, length);
    if (last < layers_.size()) nobody.found.extent.kind = extent_kind::unallocated;
    return nobody;
  }
  const std::shared_ptr<layer>& owner = layers_[known.depth];
  if (known.kind == extent_kind::zero) return past_the_end(known.depth, owner, length);
  if (known.kind == extent_kind::encoded || effort == map_effort::status) return std::nullopt;
  extent place;
  place.kind = extent_kind::data;
  place.storage_index = known.storage_index;
  place.length = length;
  place.host_offset = known.host_offset;
  // No pin: the owner is not writable, so nothing of it is freed, and located_extent::owner keeps it.
  return located_extent{known.depth, owner, {place, {}}};
}

chain::cached_answer chain::try_below(byte_range range, depth_range among, map_effort effort) const {
  if (const auto known = recall(range)) {
    if (auto answer = answer_from(*known, range, among.last, effort)) return std::move(*answer);
    const byte_range part = intersection(range, known->guest);
    return try_walk(part, {known->depth, among.last}, effort);
  }
  // A status may cost I/O for all that is asked, and tells more than where to read.
  if (effort == map_effort::status) return try_walk(range, among, effort);
  const byte_range asked = to_be_learnt(range);
  cached_answer answer = try_walk(asked, among, effort);
  learn(answer, asked);
  if (answer && *answer) clip(**answer, range.length);
  return answer;
}

task<result<located_extent>> chain::below(byte_range range, depth_range among, map_effort effort) const {
  if (const auto known = recall(range)) {
    if (auto answer = answer_from(*known, range, among.last, effort)) co_return std::move(*answer);
    const byte_range part = intersection(range, known->guest);
    const depth_range owner_first{known->depth, among.last};
    co_return co_await walk_down(part, owner_first, effort);
  }
  if (effort == map_effort::status) co_return co_await walk_down(range, among, effort);
  const byte_range asked = to_be_learnt(range);
  cached_answer answer = co_await walk_down(asked, among, effort);
  learn(answer, asked);
  if (*answer) clip(**answer, range.length);
  co_return std::move(*answer);
}

chain::cached_answer chain::try_lookup(byte_range range, depth_range among, map_effort effort) const {
  among.last = std::min(among.last, depth());
  if (!uses_index(among)) return try_walk(range, among, effort);
  if (among.first < indexed_from_) {
    const depth_range changing{among.first, indexed_from_};
    cached_answer above = try_walk(range, changing, effort);
    if (!above || !*above || (*above)->owner != nullptr) return above;
    range.length = (*above)->length();
  }
  return try_below(range, {indexed_from_, among.last}, effort);
}

task<result<located_extent>> chain::lookup(byte_range range, depth_range among, map_effort effort) const {
  cached_answer cached = try_lookup(range, among, effort);
  if (cached) co_return std::move(*cached);
  among.last = std::min(among.last, depth());
  if (!uses_index(among)) co_return co_await walk_down(range, among, effort);
  if (among.first < indexed_from_) {
    const depth_range changing{among.first, indexed_from_};
    result<located_extent> above = co_await walk_down(range, changing, effort);
    if (!above || above->owner != nullptr) co_return above;
    range.length = above->length();
  }
  const depth_range fixed{indexed_from_, among.last};
  co_return co_await below(range, fixed, effort);
}

std::optional<std::size_t> chain::find_layer(std::string_view disk_name, std::string_view spec) const {
  if (spec.empty()) return std::nullopt;
  if (spec == disk_name) return 0;
  for (std::size_t index = 0; index < layers_.size(); ++index) {
    const layer_model& model = layers_[index]->model;
    if (model.index) {
      std::string name(disk_name);
      name.append("[").append(std::to_string(*model.index)).append("]");
      if (name == spec) return index;
    }
    if (names_source(model, spec)) return index;
  }
  return std::nullopt;
}

void chain::replace_layers(std::vector<std::shared_ptr<layer>> layers) {
  assert(!layers.empty());
  layers_ = std::move(layers);
  prepare_index();
}

task<result<void>> chain::close() {
  result<void> first;
  for (const std::shared_ptr<layer>& each : layers_) {
    const result<void> closed = co_await each->image->close();
    if (first && !closed) first = closed;
  }
  co_return first;
}

}  // namespace weir
