#include "formats/qed/qed.hpp"

namespace weir {

format_driver qed_driver() {
  return {.name = "qed"};
}

}  // namespace weir
