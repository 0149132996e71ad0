#include "formats/raw/raw_image.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace weir {
namespace {

extent zeros(std::uint64_t length) noexcept {
  extent found;
  found.kind = extent_kind::zero;
  found.length = length;
  return found;
}

}  // namespace

raw_image::raw_image(std::unique_ptr<storage> file, bool writable)
    : file_(std::move(file)), virtual_size_(align_up(file_->size(), sector_bytes)), writable_(writable) {}

extent raw_image::locate(byte_range range) const noexcept {
  const std::uint64_t end = file_->size();
  if (file_->capabilities().can_grow) return data_at(range.offset, range.length);
  if (range.offset >= end) return zeros(range.length);
  return data_at(range.offset, std::min(range.length, end - range.offset));
}

extent raw_image::data_at(std::uint64_t offset, std::uint64_t length) const noexcept {
  extent found;
  found.kind = extent_kind::data;
  found.in_place = writable_;
  found.length = length;
  found.host_offset = offset;
  return found;
}

task<result<extent>> raw_image::do_map(byte_range range, map_effort effort) {
  if (effort == map_effort::locate) co_return locate(range);
  if (range.offset >= file_->size()) co_return zeros(range.length);
  const result<storage_run> run = co_await file_->status(range);
  if (!run) co_return run.error();
  if (!run->hole) co_return data_at(range.offset, run->length);
  extent hole = zeros(run->length);
  hole.host_offset = range.offset;
  co_return hole;
}

std::optional<result<extent>> raw_image::do_try_map(byte_range range, map_effort effort) {
  if (effort == map_effort::status) return std::nullopt;
  return locate(range);
}

task<result<allocation>> raw_image::do_allocate(byte_range range) {
  // Only the zero tail of a storage that cannot grow is not in place.
  if (range.offset >= file_->size()) co_return errno_code(ENOSPC);
  co_return errc::not_supported;
}

task<result<allocation>> raw_image::do_allocate_encoded(byte_range, std::uint64_t) {
  co_return errc::not_supported;
}

task<result<void>> raw_image::do_publish(const allocation&) {
  co_return errc::not_supported;
}

task<result<void>> raw_image::do_release(const allocation&) {
  co_return errc::not_supported;
}

task<result<void>> raw_image::do_zero(byte_range range, zero_mode mode) {
  // The tail past the file's end is zero already.
  const byte_range stored = intersection(range, {0, file_->size()});
  if (stored.empty()) co_return result<void>{};
  co_return co_await file_->zero(stored, mode);
}

task<result<void>> raw_image::do_discard(byte_range range) {
  return file_->discard(range);
}

task<result<void>> raw_image::do_flush() {
  return file_->flush();
}

task<result<void>> raw_image::do_set_backing(std::optional<backing_reference>) {
  co_return errc::not_supported;
}

task<outcome<void>> raw_image::do_resize(std::uint64_t size, std::uint64_t) {
  result<void> done = co_await file_->truncate(size);
  if (done) done = co_await file_->flush();
  const error_code fixed_length = errc::not_supported;
  if (!done && done.error() == fixed_length) {
    co_return make_failure(done.error(), file_->location(), "its length is fixed");
  }
  if (!done) co_return make_failure(done.error(), file_->location());
  virtual_size_ = size;
  co_return outcome<void>{};
}

task<outcome<void>> raw_image::do_make_empty() {
  co_return make_failure(errc::not_supported, file_->location(), "a raw image cannot show a backing image");
}

task<result<void>> raw_image::do_close() {
  result<void> flushed;
  if (writable_) flushed = co_await file_->flush();
  const result<void> closed = co_await file_->close();
  if (!flushed) co_return flushed.error();
  co_return closed;
}

}  // namespace weir
