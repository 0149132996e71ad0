// Formats register through a table handed to the engine at start; the engine names none of them.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/check.hpp"
#include "engine/block/image.hpp"
#include "engine/storage/storage.hpp"

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace weir {

struct kept_bitmap;

/// Opens or makes the storage of an external data file under the name an image's header has or gets for it.
/// Failures name that file.
using data_file_opener =
    std::function<task<outcome<std::unique_ptr<storage>>>(std::string name, bool writable)>;

/// What becomes of the persistent bitmaps of an image that is opened for writing.
enum class bitmap_care : std::uint8_t {
  withdraw,  ///< content may change unseen: they are invalidated at once
  record,    ///< every change of content is shown to image::bitmaps() (a disk does so)
  leave,     ///< content does not change
};

struct image_open_options {
  bool writable = false;
  bitmap_care bitmaps = bitmap_care::withdraw;
  /// ID or name of the internal snapshot to open instead of the current state. Precondition: not writable.
  std::string snapshot = {};
  /// Upper bound of cached metadata, in bytes; the format may keep a small working minimum beyond it.
  std::size_t metadata_cache_bytes = std::size_t{32} << 20;
  /// For encrypted images of the chain; null: they are refused.
  std::shared_ptr<const std::string> passphrase = nullptr;
  /// Called for an image whose data lies in a file of its own. Empty: such images are refused.
  data_file_opener open_data_file = {};
};

struct image_create_options {
  std::uint64_t virtual_size = 0;
  std::optional<backing_reference> backing;
  /// The -o options (`cluster_size=64K`), values as typed. Unknown keys are refused by name.
  std::map<std::string, std::string> options;
  /// Makes an empty data file for a format that is asked to keep its data there. Empty: that is refused.
  data_file_opener create_data_file = {};
};

/// What a new image would take on its storage, beside or including its content.
struct size_estimate {
  std::uint64_t metadata_bytes = 0;  ///< of the image with everything allocated
  std::uint64_t content_bytes = 0;   ///< of everything allocated, whole grains
  std::uint64_t grain = 1;           ///< unit in which content takes space
  bool is_sparse = true;             ///< only what is not zero takes content bytes
};

struct format_driver {
  std::string_view name;
  bool can_have_backing = false;
  bool has_snapshots = false;  ///< image_open_options::snapshot may be given
  /// True if `head` (the first bytes of a file, up to probe_bytes) carries the format's magic.
  bool (*probe)(std::span<const std::byte> head) = nullptr;
  /// Takes the storage over (it is closed on failure). Failures name storage.location(), the field and its
  /// value.
  task<outcome<std::unique_ptr<image>>> (*open)(std::unique_ptr<storage> from,
                                                image_open_options options) = nullptr;
  /// Writes an empty image into `into` (length 0) and makes it durable. Null: cannot be created.
  task<outcome<void>> (*create)(storage& into, image_create_options options) = nullptr;
  /// Checks the image alone, not its backing chain, and repairs it as asked (the storage must be writable then).
  /// Takes the storage over and closes it. Power loss during a repair leaves the image no worse than it was.
  /// Failures are about the image as a whole: it cannot be looked at. Null: the format has nothing to check.
  task<outcome<check_report>> (*check)(std::unique_ptr<storage> from, check_options options) = nullptr;
  /// What an image made with these options would take. Failures as create(). Null: not known.
  outcome<size_estimate> (*measure)(const image_create_options& options) = nullptr;
  /// Bytes that copies of `bitmaps`, those that can be read, would take in an image made with these options, every bit
  /// set; nothing if such an image keeps none. Null: as nothing.
  std::optional<std::uint64_t> (*measure_bitmaps)(const image_create_options& options,
                                                  std::span<const kept_bitmap> bitmaps) = nullptr;
};

inline constexpr std::size_t probe_bytes = 512;

class format_table {
 public:
  explicit format_table(std::span<const format_driver> drivers) : drivers_(drivers) {}

  std::span<const format_driver> drivers() const noexcept { return drivers_; }

  /// The driver called `name`, or null.
  const format_driver* find(std::string_view name) const noexcept {
    for (const format_driver& driver : drivers_) {
      if (driver.name == name) return &driver;
    }
    return nullptr;
  }

  /// The driver whose magic `head` carries; the one without a magic (raw) otherwise, or null.
  const format_driver* probe(std::span<const std::byte> head) const noexcept {
    for (const format_driver& driver : drivers_) {
      if (driver.probe != nullptr && driver.probe(head)) return &driver;
    }
    return find("raw");
  }

 private:
  std::span<const format_driver> drivers_;
};

}  // namespace weir
