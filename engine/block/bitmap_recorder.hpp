// Shows a disk's changes to the persistent bitmaps of its active image.
#pragma once

#include "engine/block/bitmap_store.hpp"
#include "engine/block/observer.hpp"

namespace weir {

class bitmap_recorder final : public change_observer {
 public:
  /// `store` outlives the recorder.
  explicit bitmap_recorder(bitmap_store& store) : store_(store) {}

  task<result<void>> before_change(byte_range, change_kind) override { return store_.begin_change(); }
  task<result<void>> after_change(byte_range range, change_kind, std::span<const std::byte>, bool) override {
    store_.record(range);
    co_return result<void>{};
  }

 private:
  bitmap_store& store_;
};

}  // namespace weir
