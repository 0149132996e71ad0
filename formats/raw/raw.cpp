#include "formats/raw/raw.hpp"

namespace weir {

format_driver raw_driver() {
  return {.name = "raw"};
}

}  // namespace weir
