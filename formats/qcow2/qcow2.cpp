#include "formats/qcow2/qcow2.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/check_image.hpp"
#include "formats/qcow2/create_image.hpp"
#include "formats/qcow2/header.hpp"
#include "formats/qcow2/measure.hpp"
#include "formats/qcow2/open_image.hpp"

namespace weir {
namespace {

bool has_magic(std::span<const std::byte> head) {
  // Version 1 shares the magic but is another format.
  return head.size() >= 8 && load_big<std::uint32_t>(head.data()) == qcow2::magic &&
         load_big<std::uint32_t>(head.data() + 4) >= 2;
}

}  // namespace

format_driver qcow2_driver() {
  return {.name = "qcow2",
          .can_have_backing = true,
          .has_snapshots = true,
          .probe = &has_magic,
          .open = &qcow2::open_image,
          .create = &qcow2::create_image,
          .check = &qcow2::check_image,
          .measure = &qcow2::measure_image,
          .measure_bitmaps = &qcow2::measure_bitmaps};
}

}  // namespace weir
