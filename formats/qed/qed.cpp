#include "formats/qed/qed.hpp"

#include "formats/qed/check_image.hpp"
#include "formats/qed/header.hpp"
#include "formats/qed/open.hpp"

namespace weir {

format_driver qed_driver() {
  return {.name = "qed",
          .can_have_backing = true,
          .probe = qed::has_magic,
          .open = qed::open_image,
          .create = qed::create_image,
          .check = qed::check_image};
}

}  // namespace weir
