// Which layer owns a guest range, remembered: the owner index of a chain.
//
// The index speaks of the layers below the last writable one. Those do not change while the chain is open, so what a
// walk down the layers found once stays true: until the chain's layers are replaced (clear), or until the owner's
// epoch moves, which the chain looks at on every hit. Whatever changes the guest's view (writes, zeroes, discards,
// copy-on-read, streaming, bitmaps, snapshots) changes a layer above the index, and those are asked each time. So no
// change has to keep the index right, and it cannot authorise a write: it knows no layer that may be written.
//
// Guest space is cut into regions. A region is a sorted list of runs; a run is a linear piece of one layer, or of
// nobody. Gaps are what nobody has asked yet. Everything may be forgotten at any time: the region unused for longest
// goes when the runs of all regions take more than the limit. Pure: no I/O, no images.
#pragma once

#include "engine/base/range.hpp"
#include "engine/block/image.hpp"

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

namespace weir {

class owner_index {
 public:
  static constexpr std::uint64_t region_bytes = 2 * MiB;
  static constexpr std::size_t default_limit_bytes = std::size_t{48} << 20;

  explicit owner_index(std::size_t limit_bytes = default_limit_bytes) : limit_bytes_(limit_bytes) {}

  /// What is known of guest bytes.
  struct owned {
    byte_range guest;
    std::uint32_t depth = 0;  ///< of the owner; the chain's depth where nobody owns it
    /// data: at host_offset of the storage, on for the whole range. encoded: ask the owner where. Otherwise zero.
    extent_kind kind = extent_kind::zero;
    std::uint8_t storage_index = 0;
    std::uint64_t host_offset = 0;
  };

  /// The region of an offset.
  static byte_range region_of(std::uint64_t offset) noexcept {
    return {align_down(offset, region_bytes), region_bytes};
  }

  /// What is known from `offset` on, up to the end of the run or region; nothing if the byte was never asked.
  std::optional<owned> find(std::uint64_t offset) noexcept;
  /// Remembers an answer, which agrees with what is known already.
  void learn(const owned& answer);
  void clear() noexcept;

  /// Memory that the index takes, roughly.
  std::size_t size_bytes() const noexcept { return size_bytes_; }

 private:
  /// Offsets count from the start of the region.
  struct run {
    std::uint32_t offset;
    std::uint32_t length;
    std::uint32_t depth;
    extent_kind kind;
    std::uint8_t storage_index;
    std::uint64_t host_offset;

    std::uint32_t end() const noexcept { return offset + length; }
  };
  struct region {
    std::uint64_t number = 0;
    std::vector<run> runs;  // ascending, disjoint
  };
  using regions = std::list<region>;

  static bool follows(const run& first, const run& next) noexcept;
  static run part_of(const run& whole, std::uint32_t from, std::uint32_t to) noexcept;
  static std::size_t bytes_of(const region& which) noexcept;
  /// Adds what fits between the runs at - 1 and at, and joins it with them where it can.
  static void insert(std::vector<run>& runs, std::size_t at, const run& added);
  void learn(std::uint64_t number, const run& whole);
  region& need(std::uint64_t number);
  void evict();

  std::size_t limit_bytes_;
  std::size_t size_bytes_ = 0;
  regions recent_first_;
  std::unordered_map<std::uint64_t, regions::iterator> by_number_;
};

}  // namespace weir
