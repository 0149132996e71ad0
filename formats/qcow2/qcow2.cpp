#include "formats/qcow2/qcow2.hpp"

namespace weir {

format_driver qcow2_driver() {
  return {.name = "qcow2"};
}

}  // namespace weir
