// Persistent dirty bitmaps: what changed on a disk since some moment, kept in its image from one run to the next.
//
// The store does what does not depend on the format: which bitmaps there are, who records, bits in memory. The format
// reads bits, marks bitmaps as in use and writes them back.
//
// Life of a bitmap that records (`enabled`)
//   stored    its bits on the storage are what they should be
//   in use    marked so, durably, before the first change of content (begin_change); from then on the bits in
//             memory are ahead of the stored ones. A crash now leaves the mark: whoever opens the image next finds the
//             bitmap inconsistent and makes no use of its bits
//   stored    again by store(), which the image's close() calls
// Bits are set by record() after the content has changed, with the range still held, so that a copy that clears bits
// before it reads never misses a change. Inconsistent bitmaps stay until someone removes them.
//
// Bits are loaded when they are needed; all that are in memory are bounded by most_bytes.
#pragma once

#include "engine/base/dirty_bitmap.hpp"
#include "engine/base/error.hpp"
#include "engine/base/range.hpp"
#include "engine/base/task.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

struct kept_bitmap {
  std::string name;
  std::uint64_t granularity = 0;                    ///< bytes, a power of two
  bool enabled = false;                             ///< records changes
  bool inconsistent = false;                        ///< its bits mean nothing: damaged, or in use at open
  bool in_use = false;                              ///< marked so on the storage
  bool changed = false;                             ///< to be written by store()
  bool transient = false;                           ///< never on the storage: gone with the opened image
  std::optional<dirty_bitmap> bits = std::nullopt;  ///< once loaded
};

class bitmap_store {
 public:
  /// Bits of all bitmaps of an image in memory.
  static constexpr std::uint64_t most_bytes = 256 * MiB;

  bitmap_store() = default;
  bitmap_store(const bitmap_store&) = delete;
  bitmap_store& operator=(const bitmap_store&) = delete;
  virtual ~bitmap_store() = default;

  std::span<const kept_bitmap> bitmaps() const noexcept { return bitmaps_; }
  const kept_bitmap* find(std::string_view name) const noexcept;
  /// True if a change of content concerns any bitmap: it records, or is damaged and has to be marked.
  bool records() const noexcept;

  // For whoever changes content: the disk (block/bitmap_recorder.hpp).

  /// To be awaited before content changes. Suspends only until every bitmap that records is marked, durably.
  task<result<void>> begin_change();
  /// The content of `range` has changed, or may have. Precondition: begin_change() before the change.
  void record(byte_range range) noexcept;

  // Management. Nothing is on the storage before store(). Failures name the image and the bitmap.

  /// A bitmap without set bits. Errors: a name that is taken or too long, a granularity the format cannot keep,
  /// too many bitmaps, most_bytes.
  outcome<void> add(std::string name, std::uint64_t granularity, bool enabled, bool persistent = true);
  outcome<void> remove(std::string_view name);
  /// The bits, for looking. The pointer is good until the bitmap is removed or another one added.
  task<outcome<const dirty_bitmap*>> load(std::string name);
  task<outcome<void>> clear(std::string name);
  task<outcome<void>> set_enabled(std::string name, bool enabled);
  /// Adds the bits of `from`. Errors: another disk size; inconsistent.
  task<outcome<void>> merge(std::string name, const dirty_bitmap& from);
  /// Loads the bits of all that record, so that record() can set them. To be called when the image is opened.
  /// A bitmap whose bits are damaged becomes inconsistent.
  task<outcome<void>> load_recording();

  // Another size of the disk: begin_resize(), the change itself, end_resize(), store(). A crash in between leaves every
  // bitmap inconsistent.

  /// Loads the bits of all and marks all as in use, durably. Errors: a bitmap that could not be kept or held in memory
  /// for `size` bytes.
  task<outcome<void>> begin_resize(std::uint64_t size);
  /// The disk has its new size: granules that it gains are clear in every bitmap.
  void end_resize();

  /// Everything as it is now, to come back to if several changes have to succeed together. Precondition of restore():
  /// nothing has been stored, and no content has changed, since.
  struct saved_state {
    std::vector<kept_bitmap> bitmaps;
    bool set_changed = false;
  };
  saved_state save() const { return {bitmaps_, set_changed_}; }
  void restore(saved_state saved);

  /// Changes of bitmaps since the last store() are not to be stored: what the storage has stays. Precondition: no
  /// content has changed since.
  void forget_changes() noexcept;
  /// Writes what has changed; durable on return. What fails to be written stays marked as in use.
  task<outcome<void>> store();

 protected:
  /// What the format found. Precondition: called once, before anything else.
  void adopt(std::vector<kept_bitmap> found) { bitmaps_ = std::move(found); }

 private:
  /// For failures.
  virtual const std::string& location() const noexcept = 0;
  virtual std::uint64_t disk_size() const noexcept = 0;
  /// Why the format cannot keep one more bitmap like this; empty if it can.
  virtual std::string do_refuse(std::string_view name, std::uint64_t granularity) const = 0;
  /// Why the format cannot keep a bitmap of that granularity for a disk of `size` bytes; empty if it can.
  virtual std::string do_refuse_length(std::uint64_t granularity, std::uint64_t size) const = 0;
  virtual task<outcome<dirty_bitmap>> do_load(const kept_bitmap& wanted) = 0;
  /// Marks every stored bitmap that is enabled, or every one, as in use, and sets in_use in those; durable on return.
  virtual task<result<void>> do_mark(std::span<kept_bitmap> bitmaps, bool all) = 0;
  /// The storage has exactly `bitmaps`, of which none is transient, afterwards, durably: bits of those changed, the others as they are.
  virtual task<outcome<void>> do_store(std::span<const kept_bitmap> bitmaps) = 0;

  failure refuse(std::string_view name, std::string_view why) const;
  outcome<kept_bitmap*> find_usable(std::string_view name);
  task<outcome<dirty_bitmap*>> load_bits(kept_bitmap& wanted);
  outcome<void> check_memory(std::string_view name, std::uint64_t granularity) const;
  std::uint64_t bytes_of(std::uint64_t granularity) const noexcept {
    return disk_size() / granularity / 8 + 8;
  }
  task<outcome<void>> load_those(bool disabled_too);

  std::vector<kept_bitmap> bitmaps_;
  std::uint64_t loaded_bytes_ = 0;  // of the bits in memory
  bool marked_ = false;             // every bitmap that records is marked
  bool set_changed_ = false;        // bitmaps were added or removed
};

}  // namespace weir
