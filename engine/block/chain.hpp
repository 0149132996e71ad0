// The backing chain of one disk: layers from the active one (depth 0) down to the base.
//
// Who owns a range is found by asking the layers from the top down. What the layers below the last writable one
// answered is remembered (owner_index.hpp), so that a range costs the walk once and from then on as much as in a
// chain of one layer. A walk that is to be remembered asks for more than is wanted: that does no
// more I/O, since an image reads no more metadata than the first byte asked for needs.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/block/image.hpp"
#include "engine/block/model.hpp"
#include "engine/block/owner_index.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

namespace weir {

/// One opened image of a chain. Shared by the chain and by operations in flight; closed by whoever drops it.
struct layer {
  layer_model model;
  std::unique_ptr<weir::image> image;
};

/// Which layers a lookup asks: depths [first, last). last is clipped to the chain's depth.
struct depth_range {
  std::size_t first = 0;
  std::size_t last = static_cast<std::size_t>(-1);
};

/// The answer of a lookup.
struct located_extent {
  /// Owning layer's depth; equal to the asked range's end if no layer in it allocates the range, and to the
  /// depth of the short layer if the range lies past the end of a layer in the middle.
  std::size_t depth = 0;
  /// The layer at that depth, or null if nobody owns the range.
  std::shared_ptr<layer> owner;
  /// kind is data, zero or encoded; zero where nobody owns the range and the lookup went down to the base;
  /// unallocated where it stopped above the base.
  mapping found;
  std::uint64_t length() const noexcept { return found.extent.length; }
};

class chain {
 public:
  /// Precondition: at least one layer, active first; every layer is open.
  explicit chain(std::vector<std::shared_ptr<layer>> layers);

  std::size_t depth() const noexcept { return layers_.size(); }
  const std::shared_ptr<layer>& at(std::size_t index) const noexcept { return layers_[index]; }
  const std::vector<std::shared_ptr<layer>>& layers() const noexcept { return layers_; }
  layer& active() const noexcept { return *layers_.front(); }
  /// The guest-visible length: the active layer's.
  std::uint64_t size() const noexcept { return active().image->virtual_size(); }

  /// Who owns the range at range.offset among the layers asked, and where it is; the answer covers at least
  /// one byte and no more than `range`. Reads past a short layer's end are zero, whatever lies below it.
  /// Precondition: range is not empty and inside size().
  task<result<located_extent>> lookup(byte_range range, depth_range among, map_effort effort) const;
  /// The same without I/O, if all metadata it needs is cached.
  std::optional<result<located_extent>> try_lookup(byte_range range, depth_range among,
                                                   map_effort effort) const;

  /// Index of the layer that `spec` names: "vda[3]" (by model.index), a path or name as modelled or as
  /// recorded. An empty spec names nothing. `disk_name` is the disk's own name, which alone names layer 0.
  std::optional<std::size_t> find_layer(std::string_view disk_name, std::string_view spec) const;

  /// Told of every layer whose metadata cannot be read, with the guest range asked for.
  using error_sink = std::function<void(const layer& failed, byte_range range, error_code code)>;
  void set_error_sink(error_sink sink) { on_error_ = std::move(sink); }

  /// Whether I/O through this descriptor of one of the layers' storages never waits for a device; asked once.
  bool is_in_memory(int descriptor) const;

  /// Forgets what is remembered of who owns what; costs time only.
  void forget_owners() const noexcept { owners_.clear(); }

  /// Replaces the layers. Precondition: nothing is in flight on the chain. The caller closes what was
  /// dropped.
  void replace_layers(std::vector<std::shared_ptr<layer>> layers);

  /// Closes every image, active first; the first error is returned.
  task<result<void>> close();

 private:
  class walk;
  using cached_answer = std::optional<result<located_extent>>;

  cached_answer try_walk(byte_range range, depth_range among, map_effort effort) const;
  task<result<located_extent>> walk_down(byte_range range, depth_range among, map_effort effort) const;

  void prepare_index();
  bool uses_index(depth_range among) const noexcept;
  /// What to ask the indexed layers for, so that the answer is worth remembering.
  byte_range to_be_learnt(byte_range wanted) const noexcept;
  void learn(const cached_answer& answer, byte_range asked) const;
  std::optional<owner_index::owned> recall(byte_range range) const;
  std::optional<located_extent> answer_from(const owner_index::owned& known, byte_range range,
                                            std::size_t last, map_effort effort) const;
  cached_answer try_below(byte_range range, depth_range among, map_effort effort) const;
  task<result<located_extent>> below(byte_range range, depth_range among, map_effort effort) const;

  std::vector<std::shared_ptr<layer>> layers_;
  error_sink on_error_;
  std::size_t indexed_from_ = 0;  ///< the index speaks of the layers from here on, if has_index_
  bool has_index_ = false;
  mutable std::vector<std::optional<bool>> in_memory_;  ///< by descriptor
  mutable owner_index owners_;                          ///< a cache: what is asked fills it
  mutable std::vector<std::uint64_t> epochs_;           ///< of every layer, when owners_ began to be filled
};

}  // namespace weir
