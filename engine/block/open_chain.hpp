// Opens the layers of one disk, active first, and finds out what its description leaves open.
//
// Rules (libvirt's, see its "backing chain" documentation, and what QEMU's CVE-2008-2004 taught):
// - The description beats the headers: listed layers are opened as listed; a terminator hides the header's
// backing
//   name. Where the list stops without one, the last layer's header tells the next.
// - A recorded or declared format is believed and never probed; content of another format fails to open.
// - A backing layer without a recorded format is probed, and accepted only if what is found has itself no
// backing
//   or data file, since a guest can write a header into a raw disk. An overlay that states raw explicitly
//   (backing_reference::may_probe, QED) may have its backing layer probed, chain included.
// - The active layer without a format is raw, unless the user named it (probe_active).
// - A data file is the one described for its layer, else the plain file its header names (nothing else is taken
//   from a header there: CVE-2024-4467); it is opened writable as its layer is.
// - Network names found in headers are refused unless allowed. At most max_layers; loops are found by device
// and
//   inode.
// - Backing layers are opened read-only.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/chain.hpp"
#include "engine/block/format_table.hpp"
#include "engine/block/model.hpp"
#include "engine/storage/storage.hpp"

#include <cstddef>
#include <functional>
#include <memory>
#include <string_view>
#include <vector>

namespace weir {

inline constexpr std::size_t max_layers = 200;

/// Opens where a layer's bytes are. May correct `source.type` from file to block. The references stay valid
/// until the task ends. Failures name the location. Slices and formats are not its business.
using storage_opener =
    std::function<task<outcome<std::unique_ptr<storage>>>(layer_source& source, bool writable)>;

struct open_chain_options {
  bool read_only = false;             ///< the active layer too
  bool probe_active = false;          ///< the user named the image: an empty format is probed
  bool allow_remote_backing = false;  ///< network names found in headers may be opened
  /// First number for layers without an index: indexes are unique in the guest, so the disks of one guest are
  /// numbered one after the other (number_layers).
  unsigned first_index = 1;
  /// `writable` is set per layer; `snapshot` is the active layer's. A disk made of the chain records changes in the
  /// active layer's bitmaps; whoever changes content without one must not ask for `record`.
  image_open_options image = {.bitmaps = bitmap_care::record};
};

/// Opened layers, active first, models completed: format, index, recorded_name, where the next one came from.
/// Failures name the layer and its overlay; everything opened until then is closed.
/// The references must outlive the task.
task<outcome<std::vector<std::shared_ptr<layer>>>> open_chain(const disk_model& disk,
                                                              const format_table& formats,
                                                              const storage_opener& opener,
                                                              open_chain_options options);

/// Closes layers, active first, and forgets them. The first error is returned.
task<result<void>> close_layers(std::vector<std::shared_ptr<layer>>& layers);

/// `disk` with its layers as opened, terminated.
disk_model completed_model(disk_model disk, const std::vector<std::shared_ptr<layer>>& layers);

}  // namespace weir
