#include "engine/block/chain.hpp"

#include <cassert>

namespace weir {
namespace {

located_extent past_the_end(std::size_t depth, std::shared_ptr<layer> owner, std::uint64_t length) {
  located_extent answer{.depth = depth, .owner = std::move(owner), .found = {}};
  answer.found.extent.kind = extent_kind::zero;
  answer.found.extent.length = length;
  return answer;
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
}

std::optional<result<located_extent>> chain::try_lookup(byte_range range, depth_range among,
                                                        map_effort effort) const {
  walk at(*this, range, among);
  while (true) {
    if (auto answer = at.settled()) return std::move(*answer);
    auto cached = at.current().try_map(at.part(), effort);
    if (!cached) return std::nullopt;
    if (auto answer = at.take(std::move(*cached))) return answer;
  }
}

task<result<located_extent>> chain::lookup(byte_range range, depth_range among, map_effort effort) const {
  walk at(*this, range, among);
  while (true) {
    if (auto answer = at.settled()) co_return std::move(*answer);
    auto cached = at.current().try_map(at.part(), effort);
    if (!cached) {
      result<mapping> mapped = co_await at.current().map(at.part(), effort);
      cached.emplace(std::move(mapped));
    }
    if (auto answer = at.take(std::move(*cached))) co_return std::move(*answer);
  }
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
