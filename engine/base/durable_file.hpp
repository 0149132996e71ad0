// Small files that are replaced as a whole: after a crash there is the old text or the new one, never a mixture.
#pragma once

#include "engine/base/error.hpp"

#include <string>
#include <string_view>

namespace weir {

/// Writes `text` beside `path` (PATH.new), makes it durable and renames it over `path`. A new file is readable by its
/// owner only; a replaced one keeps its permissions. A symbolic link is replaced in the place it leads to. Blocks.
result<void> replace_file(const std::string& path, std::string_view text);

/// Removes a file for good; success if there is none. Blocks.
result<void> remove_file(const std::string& path);

}  // namespace weir
