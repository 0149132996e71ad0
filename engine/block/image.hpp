// The image interface: what a format knows of ONE layer. An image is pure metadata: it says where guest data
// is or goes and never moves it; it never looks at its backing image.
//
// Life of an allocating write, as the engine drives it (engine/block/placement.cpp):
//   map        → not writable in place
//   allocate   → a host extent for whole grains, and which head and tail of them the engine must fill
//   (the engine writes head, data and tail to the storage)
//   publish    → the mapping now points there; becomes durable with the next flush
//   or release → the extent was not used and is given back
//
// Contracts
// - One engine thread. Operations of one image may overlap in time (each may suspend); the image keeps its
//   metadata consistent across its own suspensions. The caller keeps changes of one grain exclusive: between
//   allocate and publish/release, and during zero and discard, no other change touches those grains.
// - A mapping pins what it names: the extent stays valid, and its host range is not reused or punched, until
// the
//   mapping is destroyed. All mappings are destroyed before close().
// - `in_place` says that guest writes may go straight to the extent. Readable is not writable: clusters
// shared
//   with a snapshot, compressed or zero clusters are not in place.
// - publish records intent; flush makes everything published and all data written before it durable, in the
//   order data storages, refcounts, pointers, deferred frees. Never may a durable pointer name something that
//   is not durable itself.
// - epoch() changes whenever earlier answers about in_place may no longer hold (snapshot, revert, resize,
//   rebase, commit).
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"
#include "engine/block/pin_ledger.hpp"
#include "engine/storage/storage.hpp"

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace weir {

class bitmap_store;
class snapshot_store;

enum class extent_kind : std::uint8_t {
  data,         ///< plain bytes at host_offset of a storage
  zero,         ///< reads as zero, whatever lies below
  unallocated,  ///< this layer does not say: ask the backing layer
  encoded,      ///< compressed: read the unit's host bytes, decode, take the wanted part
};

/// Turns the host bytes of one unit into exactly `decoded.size()` guest bytes. Pure: runs on any thread.
/// Errors: errc::corrupt_data.
using unit_decoder = result<void> (*)(std::span<const std::byte> encoded, std::span<std::byte> decoded);

/// An encoded unit (a compressed cluster).
struct encoded_unit {
  byte_range guest;  ///< what it decodes to; the last unit of a disk may end past the virtual size
  byte_range host;   ///< may end past the end of the storage, which then reads as zero
  unit_decoder decode = nullptr;
};

/// Makes encoded units of guest bytes. Values only: made and used on any thread, one unit at a time.
class unit_encoder {
 public:
  unit_encoder() = default;
  unit_encoder(const unit_encoder&) = delete;
  unit_encoder& operator=(const unit_encoder&) = delete;
  virtual ~unit_encoder() = default;
  /// Encodes one whole unit into `encoded` and returns how many bytes that took; 0 where it would not fit, which
  /// says that the unit is better written plain.
  virtual result<std::size_t> encode(std::span<const std::byte> unit, std::span<std::byte> encoded) = 0;
};

/// How an image stores encoded units.
struct unit_encoding {
  std::uint64_t unit_bytes = 0;  ///< units begin at multiples of it; a power of two
  std::unique_ptr<unit_encoder> (*make_encoder)() = nullptr;
};

/// A run of one layer with one answer.
struct extent {
  extent_kind kind = extent_kind::unallocated;
  bool in_place = false;           ///< data: guest writes may go there directly
  std::uint8_t storage_index = 0;  ///< data, encoded: which of the image's storages
  std::uint64_t length = 0;        ///< guest bytes from the offset asked for, > 0
  std::uint64_t host_offset = 0;   ///< data: where the byte asked for lies
  encoded_unit unit;               ///< encoded
};

/// An extent and the pin that keeps it valid.
struct mapping {
  weir::extent extent;
  pin_ledger::pin pin;
};

/// How hard map() looks.
enum class map_effort : std::uint8_t {
  locate,  ///< where to read or write: a raw file is data throughout
  status,  ///< is it allocated, is it zero: a raw file's holes are looked up
};

/// A host extent reserved for whole grains of the guest.
struct allocation {
  byte_range guest;  ///< covered guest bytes: whole grains, clipped to the virtual size
  byte_range head;   ///< part of `guest` before the request: fill before publish; may be empty
  byte_range tail;   ///< part of `guest` behind the request: fill before publish; may be empty
  std::uint8_t storage_index = 0;
  /// The host range reads as zero now and after a power loss (fresh at the end of a growing file): what is to
  /// be zero there need not be written.
  bool host_is_zero = false;
  std::uint64_t host_offset = 0;  ///< where guest.offset goes; the host range is contiguous
  std::uint64_t token = 0;        ///< the image's own
  /// Of allocate_encoded(): bytes reserved at host_offset, which has any alignment; 0: plain data.
  std::uint64_t encoded_length = 0;
};

/// The backing image as the overlay's header records it.
struct backing_reference {
  std::string name;        ///< the raw string, e.g. "base.img" or "json:{…}"
  std::string format;      ///< empty: not recorded
  bool may_probe = false;  ///< the format states raw explicitly, so an unrecorded one may be probed (QED)
  friend bool operator==(const backing_reference&, const backing_reference&) = default;
};

/// A format-specific fact for `weir info`; the key is qemu-img's where it has one.
struct image_fact {
  std::string key;
  std::variant<bool, std::uint64_t, std::string> value;
};

class image {
 public:
  image() = default;
  image(const image&) = delete;
  image& operator=(const image&) = delete;
  virtual ~image() = default;

  virtual std::string_view format() const noexcept = 0;
  /// Guest-visible length in bytes.
  virtual std::uint64_t virtual_size() const noexcept = 0;
  /// Unit of allocation in bytes (a cluster or subcluster), a power of two; 1 where every byte is always allocated.
  virtual std::uint64_t grain() const noexcept = 0;
  virtual bool writable() const noexcept = 0;
  /// True if zero() of whole grains is cheaper than writing zeros; false also where it is not_supported.
  virtual bool zeroes_fast() const noexcept = 0;
  /// The recorded backing image, if any. Valid until set_backing.
  virtual const std::optional<backing_reference>& backing() const noexcept = 0;
  virtual std::vector<image_fact> facts() const = 0;
  /// Its internal snapshots; null where the format has none. Owned by the image.
  virtual snapshot_store* snapshots() noexcept = 0;
  /// Its persistent dirty bitmaps; null where the format has none. Owned by the image; stored by close().
  virtual bitmap_store* bitmaps() noexcept = 0;
  /// Storages by extent::storage_index; 0 always exists. Owned by the image.
  virtual storage& storage_at(std::uint8_t index) noexcept = 0;

  /// How encoded units are written; none where the format, or this image, has none.
  virtual std::optional<unit_encoding> encoding() const noexcept = 0;

  std::uint64_t epoch() const noexcept { return epoch_; }

  /// The extent at range.offset, no longer than range.length. Does no more I/O than its first grain needs.
  /// Precondition: range is not empty and inside the virtual size.
  /// Errors: corrupt_image for entries that point nowhere valid (only that range is affected).
  task<result<mapping>> map(byte_range range, map_effort effort);
  /// The same without I/O, if the metadata is cached.
  std::optional<result<mapping>> try_map(byte_range range, map_effort effort);

  /// Reserves host space for a prefix of `range`, widened to whole grains. Nothing is visible before publish.
  /// Where grains can only move together (subclusters of a cluster that is compressed or shared with a
  /// snapshot), it is widened to all of them; changes of those wait inside the image until publish or release,
  /// so the caller must not allocate again, nor wait for a buffer or a range, before that.
  /// Precondition: writable; map at range.offset is not in_place data.
  /// Errors: read_only, ENOSPC, not_supported (everything is always in place).
  task<result<allocation>> allocate(byte_range range);
  /// Reserves `byte_length` bytes for the encoded form of `unit`. Neighbours are packed: a host cluster may hold
  /// several units, and is held by each of them. publish and release as for any allocation.
  /// Precondition: `unit` is one unit of encoding(), or the part of it before the disk's end;
  /// 0 < byte_length < unit_bytes. Errors: as allocate(); not_supported where the unit is allocated already.
  task<result<allocation>> allocate_encoded(byte_range unit, std::uint64_t byte_length);
  /// Points the guest range at the reserved extent, whose bytes have all been written.
  task<result<void>> publish(const allocation& reserved);
  /// Gives back an allocation that will not be published.
  task<result<void>> release(const allocation& reserved);

  /// The range reads as zero afterwards, without consulting the backing layer, taking no space if mode
  /// permits. Precondition: both ends are multiples of grain() or the virtual size; writable. Errors:
  /// not_supported where only writing zeros helps.
  task<result<void>> zero(byte_range range, zero_mode mode);
  /// Gives space back where it can; afterwards the range reads as zero or as before, never as the backing
  /// layer. Precondition: as for zero().
  task<result<void>> discard(byte_range range);
  /// See the contract above. Errors leave everything not yet durable pending for the next flush.
  task<result<void>> flush();
  /// Rewrites the recorded backing image (nullopt removes it); durable on return, previous publishes
  /// included. Errors: not_supported; ENOSPC if the name does not fit the header.
  task<result<void>> set_backing(std::optional<backing_reference> reference);
  /// Changes the virtual size; durable on return, previous publishes included. What is cut off is gone. What is added
  /// is unallocated, but for its grains below `zero_end`: where the format knows zeros, they read as zero from the same
  /// instant on, whatever the backing layer holds. Precondition: writable; nothing else is in flight; no mapping is
  /// alive; `size` is a multiple of 512; `zero_end` <= `size`. Failures name the storage and the reason
  /// (not_supported where the format cannot).
  task<outcome<void>> resize(std::uint64_t size, std::uint64_t zero_end = 0);
  /// Makes everything unallocated, so that the backing layer shows; durable on return. Precondition: as for
  /// resize(). Failures name the storage and the reason.
  task<outcome<void>> make_empty();
  /// Flushes, marks the image clean and closes its storages, even after errors. Idempotent.
  task<result<void>> close();

 protected:
  void bump_epoch() noexcept { ++epoch_; }
  pin_ledger& pins() noexcept { return pins_; }

 private:
  virtual task<result<extent>> do_map(byte_range range, map_effort effort) = 0;
  virtual std::optional<result<extent>> do_try_map(byte_range range, map_effort effort) = 0;
  virtual task<result<allocation>> do_allocate(byte_range range) = 0;
  virtual task<result<allocation>> do_allocate_encoded(byte_range unit, std::uint64_t byte_length) = 0;
  virtual task<result<void>> do_publish(const allocation& reserved) = 0;
  virtual task<result<void>> do_release(const allocation& reserved) = 0;
  virtual task<result<void>> do_zero(byte_range range, zero_mode mode) = 0;
  virtual task<result<void>> do_discard(byte_range range) = 0;
  virtual task<result<void>> do_flush() = 0;
  virtual task<result<void>> do_set_backing(std::optional<backing_reference> reference) = 0;
  virtual task<outcome<void>> do_resize(std::uint64_t size, std::uint64_t zero_end) = 0;
  virtual task<outcome<void>> do_make_empty() = 0;
  virtual task<result<void>> do_close() = 0;

  bool may_change(byte_range range) const noexcept;

  pin_ledger pins_;
  std::uint64_t epoch_ = 0;
  bool closed_ = false;
};

}  // namespace weir
