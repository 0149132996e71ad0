// A check from beginning to end, the same for every format: look, repair, look again, take back the marks.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/check.hpp"
#include "engine/storage/storage.hpp"

#include <memory>

namespace weir {

/// What a format knows of checking its images.
struct format_check {
  /// One look through all the metadata, which repairs as told.
  task<outcome<check_report>> (*look)(storage& file, repair_mode repair, finding_sink sink);
  /// Nothing but leaks is wrong any more: the marks that warned of it go, durably.
  task<outcome<void>> (*clear_marks)(storage& file);
};

/// Checks an image that nobody has open, and closes it. The report tells what is left, which the second look after a
/// repair decides. Errors: read_only where a repair is asked for; those of the format.
task<outcome<check_report>> run_check(std::unique_ptr<storage> from, check_options options,
                                      format_check format);

}  // namespace weir
