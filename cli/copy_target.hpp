// The image that a mirror or backup job writes: made, or there already.
#pragma once

#include "cli/engine_host.hpp"
#include "cli/new_image.hpp"

#include <cstddef>
#include <memory>
#include <string>

namespace weir::cli {

struct copy_target_request {
  std::string target;  ///< an IMAGE, as users name them
  std::string format;  ///< empty: that of the active layer; of an export: raw
  bool existing = false;
  /// A new image stands on the layer at this depth of the source; on nothing if there is none.
  std::size_t layers = static_cast<std::size_t>(-1);
  /// What is made keeps its temporary name until somebody puts it in place.
  bool unfinished = false;
};

struct copy_target {
  std::unique_ptr<disk> target;
  std::unique_ptr<new_image> unfinished;  ///< if it was asked for and the target was made
  bool is_zero = false;                   ///< known to read as zero throughout
};

/// Opens the target for writing, with the chain below it, after making it, of the disk's size, where it is not to exist
/// yet. What was made is removed on failure. Errors: a target that exists and should not, or has another size.
task<outcome<copy_target>> open_copy_target(engine_host& host, const disk& source,
                                            copy_target_request request, opener_settings storage);

}  // namespace weir::cli
