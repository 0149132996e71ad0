#include "formats/qcow1/read_only_image.hpp"

#include "engine/storage/storage.hpp"

namespace weir::qcow1 {

task<result<allocation>> read_only_image::do_allocate(byte_range) {
  co_return errc::read_only;
}

task<result<allocation>> read_only_image::do_allocate_encoded(byte_range, std::uint64_t) {
  co_return errc::read_only;
}

task<result<void>> read_only_image::do_publish(const allocation&) {
  co_return errc::read_only;
}

task<result<void>> read_only_image::do_release(const allocation&) {
  co_return errc::read_only;
}

task<result<void>> read_only_image::do_zero(byte_range, zero_mode) {
  co_return errc::read_only;
}

task<result<void>> read_only_image::do_discard(byte_range) {
  co_return errc::read_only;
}

task<result<void>> read_only_image::do_flush() {
  co_return result<void>{};
}

task<result<void>> read_only_image::do_set_backing(std::optional<backing_reference>) {
  co_return errc::read_only;
}

task<outcome<void>> read_only_image::do_resize(std::uint64_t, std::uint64_t) {
  co_return make_failure(errc::read_only, storage_at(0).location());
}

task<outcome<void>> read_only_image::do_make_empty() {
  co_return make_failure(errc::read_only, storage_at(0).location());
}

}  // namespace weir::qcow1
