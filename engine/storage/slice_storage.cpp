#include "engine/storage/slice_storage.hpp"

#include <algorithm>
#include <cassert>
#include <utility>

namespace weir {
namespace {

storage_capabilities fixed_length(storage_capabilities of) {
  of.can_grow = false;
  return of;
}

std::string describe_window(const storage& inner, byte_range window) {
  return inner.location() + "[" + std::to_string(window.offset) + "+" + std::to_string(window.length) + "]";
}

}  // namespace

slice_storage::slice_storage(std::unique_ptr<storage> inner, byte_range window)
    : inner_(std::move(inner)),
      window_(window),
      capabilities_(fixed_length(inner_->capabilities())),
      location_(describe_window(*inner_, window)) {
  assert(fits(window.offset, window.length, inner_->size()));
}

task<result<void>> slice_storage::do_read(std::uint64_t offset, std::span<std::byte> buffer) {
  // What lies behind the window belongs to someone else: the slice's own end reads as zero.
  const std::uint64_t inside = offset < window_.length ? window_.length - offset : 0;
  const auto length = static_cast<std::size_t>(std::min<std::uint64_t>(buffer.size(), inside));
  std::ranges::fill(buffer.subspan(length), std::byte{0});
  if (length == 0) co_return result<void>{};
  co_return co_await inner_->read(window_.offset + offset, buffer.first(length));
}

task<result<void>> slice_storage::do_write(std::uint64_t offset, std::span<const std::byte> data) {
  return inner_->write(window_.offset + offset, data);
}

task<result<void>> slice_storage::do_flush() {
  return inner_->flush();
}

task<result<void>> slice_storage::do_zero(byte_range range, zero_mode mode) {
  return inner_->zero(outer(range), mode);
}

task<result<void>> slice_storage::do_discard(byte_range range) {
  return inner_->discard(outer(range));
}

task<result<void>> slice_storage::do_truncate(std::uint64_t) {
  co_return errc::not_supported;
}

task<result<storage_run>> slice_storage::do_status(byte_range range) {
  return inner_->status(outer(range));
}

task<result<void>> slice_storage::do_close() {
  return inner_->close();
}

task<outcome<std::unique_ptr<storage>>> open_slice(std::unique_ptr<storage> inner, byte_range window) {
  const std::uint64_t size = inner->size();
  if (!fits(window.offset, window.length, size)) {
    const result<void> ignored = co_await inner->close();
    static_cast<void>(ignored);
    co_return make_failure(errc::out_of_range, inner->location(),
                           "the slice at offset " + std::to_string(window.offset) + " of " +
                               std::to_string(window.length) + " bytes ends past the storage's " +
                               std::to_string(size) + " bytes");
  }
  std::unique_ptr<storage> slice = std::make_unique<slice_storage>(std::move(inner), window);
  co_return slice;
}

}  // namespace weir
