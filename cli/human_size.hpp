// Byte counts as people read them, in qemu-img's form: "64 MiB", "32.3 MiB".
#pragma once

#include <cstdint>
#include <string>

namespace weir::cli {

std::string human_size(std::uint64_t bytes);

}  // namespace weir::cli
