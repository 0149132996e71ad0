#include "formats/registry.hpp"

#include "formats/qcow1/qcow1.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "formats/qed/qed.hpp"
#include "formats/raw/raw.hpp"

#include <array>

namespace weir {

const format_table& formats() {
  static const std::array drivers{qcow2_driver(), qed_driver(), raw_driver(), qcow1_driver()};
  static const format_table table(drivers);
  return table;
}

}  // namespace weir
