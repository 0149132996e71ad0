// A disk as its guest sees it: one chain, written at the top.
//
// A write: enter the gate → hold the range in flight → observers before → map the active layer; where it is
// in place, write there; otherwise hold whole grains, allocate, fill head and tail from what the range reads
// as now, write, publish → observers after → (FUA: flush) → answer. A read holds nothing: pins keep its
// extents valid. With copy-on-read, what the active layer lacks is populated first (block/populate.hpp) with
// the range held.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/gate.hpp"
#include "engine/base/in_flight.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/block/chain.hpp"
#include "engine/block/observer.hpp"
#include "engine/block/populate.hpp"
#include "engine/block/resources.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace weir {

class bitmap_recorder;

enum class zero_detection : std::uint8_t {
  off,
  on,     ///< written zeros become zero clusters that keep their space
  unmap,  ///< and give space back
};

struct disk_settings {
  std::string name;
  bool read_only = false;
  bool copy_on_read = false;
  bool discard_unmap = true;  ///< guest discards reach the image; otherwise they do nothing
  zero_detection detect_zeroes = zero_detection::off;
};

struct write_flags {
  bool fua = false;  ///< answer only once this write is durable
};

struct zero_flags {
  bool fua = false;
  bool may_punch = true;   ///< space may be given back
  bool fast_only = false;  ///< fail with not_supported, changing nothing, unless cheaper than writing zeros
};

/// A run of the whole chain with one status.
struct status_run {
  std::uint64_t length = 0;
  std::uint32_t depth = 0;  ///< 0: allocated nowhere; 1: in the active layer; 2: in its backing; …
  bool zero = false;        ///< known to read as zero
  friend bool operator==(const status_run&, const status_run&) = default;
};

class disk {
 public:
  disk(engine_resources resources, std::unique_ptr<weir::chain> chain, disk_settings settings);
  disk(const disk&) = delete;
  disk& operator=(const disk&) = delete;
  ~disk();

  const std::string& name() const noexcept { return settings_.name; }
  bool read_only() const noexcept { return settings_.read_only; }
  std::uint64_t size() const noexcept { return chain_->size(); }
  const disk_settings& settings() const noexcept { return settings_; }
  engine_resources& resources() noexcept { return resources_; }

  // Guest requests. Ranges must lie inside size() (errc::out_of_range) and may have any alignment; empty
  // ranges succeed. All may suspend; any number may run at a time. Changes fail with errc::read_only on a
  // read-only disk.

  task<result<void>> read(std::uint64_t offset, std::span<std::byte> buffer);
  task<result<void>> write(std::uint64_t offset, std::span<const std::byte> data, write_flags flags);
  /// The same on the spot, where that waits for nothing and needs no device: false if it does, or if anything is
  /// wrong. Then the range may be read or written in part, and the request is still to be made as above.
  /// Longer requests are not tried: copying more keeps others waiting.
  static constexpr std::size_t longest_at_once = 1 * MiB;
  bool read_at_once(std::uint64_t offset, std::span<std::byte> buffer);
  bool write_at_once(std::uint64_t offset, std::span<const std::byte> data, write_flags flags);
  /// Where in a file the bytes of `range` are, if that place is in the page cache and never holds any other bytes of the
  /// disk: then the kernel may read it later, in the midst of changes like any read that is under way. The descriptor
  /// is good until the next suspension.
  struct file_place {
    int descriptor = -1;
    std::uint64_t offset = 0;
  };
  std::optional<file_place> cached_place(byte_range range);
  task<result<void>> zero(byte_range range, zero_flags flags);
  /// Content afterwards: zero or unchanged, stable; parts smaller than a grain are left alone.
  task<result<void>> discard(byte_range range, write_flags flags);
  /// Everything answered before is durable afterwards.
  task<result<void>> flush();
  /// Status of a prefix of `range` (all of it unless there are more than `most_runs` runs); neighbours
  /// differ.
  task<result<std::vector<status_run>>> status(byte_range range, std::size_t most_runs);
  /// True if zero() is cheaper than writing zeros.
  bool has_fast_zero() const noexcept;

  void set_copy_on_read(bool on) noexcept { settings_.copy_on_read = on; }

  // For jobs.

  /// Brings what layers [1, base_depth) own of `range` into the active layer; content-neutral, unseen by
  /// observers. `range` must be whole grains of the active layer (or end at the disk's end) and should be at
  /// most largest_step long, since guest writes to it wait.
  task<result<populated>> populate(byte_range range, std::size_t base_depth);
  static constexpr std::uint64_t largest_step = 4 * MiB;
  /// First part of [from, size()) that populate() has something to do in, at most `longest` bytes (but at
  /// least one grain), whole grains; empty if there is none. Metadata only. Precondition: `from` starts a
  /// grain.
  task<result<byte_range>> find_to_populate(std::uint64_t from, std::size_t base_depth,
                                            std::uint64_t longest);

  // For copies between disks.

  /// For a copy that takes locks of its own: enters the gate before them. While the pass lives, drain() waits.
  task<gate::pass> enter() { return gate_.enter(); }
  /// read_and_scan() for who is inside, or has drained the disk.
  task<result<std::vector<byte_range>>> read_and_scan_inside(byte_range range, std::span<std::byte> buffer,
                                                             std::uint64_t granularity);
  /// Reads `range` into `buffer` on a worker where descriptors allow; returns where it is not zero, as ranges of
  /// the buffer in multiples of `granularity` (a power of two). Precondition: buffer.size() == range.length.
  task<result<std::vector<byte_range>>> read_and_scan(byte_range range, std::span<std::byte> buffer,
                                                      std::uint64_t granularity);
  /// Writes the parts `non_zero` of `data` to `range`; the rest becomes zero, unless it is known to be zero now.
  /// Precondition: as read_and_scan() returned them for data.size() == range.length.
  task<result<void>> store(byte_range range, std::span<const std::byte> data,
                           std::span<const byte_range> non_zero, bool rest_is_zero);
  /// Writes encoded units of the active layer, which must not overlap; returns how many of them, from the first on:
  /// the next one is allocated already and can only be written plain (store). Precondition: each is one unit of
  /// encoding().
  task<result<std::size_t>> store_encoded(std::span<const encoded_piece> units);
  /// How the active layer stores encoded units; none where it cannot.
  std::optional<unit_encoding> encoding() const noexcept { return active().encoding(); }
  /// Unit of allocation of the active layer; copies in whole multiples of it need no read-modify-write.
  std::uint64_t grain() const noexcept { return active().grain(); }

  void add_observer(change_observer& observer);
  void remove_observer(change_observer& observer) noexcept;
  /// Shows changes to the active image's persistent bitmaps if any of them records. To be called when one was
  /// added or enabled; the constructor has done so for those that the image was opened with.
  void record_bitmaps();

  const weir::chain& chain() const noexcept { return *chain_; }
  /// The chain for a change of its layers. Precondition: drained.
  weir::chain& chain_for_change() noexcept { return *chain_; }
  /// `layers` become the chain; returns those that were. Both are open. Precondition: drained.
  std::vector<std::shared_ptr<layer>> exchange_layers(std::vector<std::shared_ptr<layer>> layers);
  /// Keeps new requests waiting and returns when none is in flight; needs a matching resume().
  task<void> drain() { return gate_.drain(); }
  void resume() { gate_.reopen(); }

  /// Drains for good, flushes and closes every layer. The first error is returned; everything is closed
  /// anyway.
  task<result<void>> close();

 private:
  /// Buffers for copies that hold ranges: enough for a streaming window beside guests' copy-on-write.
  static constexpr std::size_t fill_buffer_bytes = std::size_t{32} << 20;

  struct zeroing {
    zero_mode mode = zero_mode::may_punch;
    bool fast_only = false;
  };

  task<result<void>> read_and_populate(byte_range range, std::span<std::byte> buffer);
  task<result<void>> write_held(byte_range range, std::span<const std::byte> data);
  task<result<void>> store_held(byte_range range, std::span<const std::byte> data,
                                std::span<const byte_range> non_zero, bool rest_is_zero);
  task<result<void>> zero_grains(byte_range range, zeroing how);
  task<result<void>> zero_held(byte_range range, zeroing how);
  task<result<void>> zero_edge(byte_range range);
  task<result<void>> write_zeros_held(byte_range range);
  task<result<void>> change_held(byte_range range, change_kind kind, zeroing how);
  task<result<void>> change(byte_range range, change_kind kind, zeroing how, bool fua);
  task<result<void>> notify_before(byte_range range, change_kind kind);
  task<result<void>> notify_after(byte_range range, change_kind kind, std::span<const std::byte> data,
                                  result<void> done);

  result<void> check_change(byte_range range) const;
  void report(std::string_view operation, byte_range range, const result<void>& done) const;
  byte_range grains_around(byte_range range) const;
  byte_range grains_inside(byte_range range) const;
  image& active() const noexcept { return *chain_->active().image; }
  write_context writing() noexcept { return {resources_, *chain_, fill_buffers_}; }

  engine_resources resources_;
  std::unique_ptr<weir::chain> chain_;
  disk_settings settings_;
  buffer_pool fill_buffers_;
  in_flight_ranges in_flight_;
  gate gate_;
  std::vector<change_observer*> observers_;
  std::unique_ptr<bitmap_recorder> recorder_;
};

}  // namespace weir
