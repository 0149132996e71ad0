#include "engine/jobs/recorded_name.hpp"

#include <filesystem>
#include <system_error>

namespace weir {

std::string name_to_record(const layer_source& source) {
  if (source.type != "file" && source.type != "block") return describe(source);
  std::error_code ignored;
  const std::filesystem::path absolute = std::filesystem::absolute(source.path, ignored);
  return ignored ? source.path : absolute.string();
}

}  // namespace weir
