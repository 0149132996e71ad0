#include "engine/block/image.hpp"

#include <cassert>

namespace weir {
namespace {

void check_extent(const result<extent>& answer, byte_range asked) {
  if (!answer) return;
  assert(answer->length > 0 && answer->length <= asked.length);
  static_cast<void>(answer);
  static_cast<void>(asked);
}

}  // namespace

bool image::may_change(byte_range range) const noexcept {
  const std::uint64_t size = virtual_size();
  const auto on_edge = [&](std::uint64_t position) {
    return is_aligned(position, grain()) || position == size;
  };
  return fits(range.offset, range.length, size) && on_edge(range.offset) && on_edge(range.end());
}

task<result<mapping>> image::map(byte_range range, map_effort effort) {
  std::optional<result<mapping>> cached = try_map(range, effort);
  if (cached) co_return std::move(*cached);
  mapping answer{{}, pins_.take()};
  const result<extent> found = co_await do_map(range, effort);
  check_extent(found, range);
  if (!found) co_return found.error();
  answer.extent = *found;
  co_return answer;
}

std::optional<result<mapping>> image::try_map(byte_range range, map_effort effort) {
  if (closed_) return errc::closed;
  if (range.empty() || !fits(range.offset, range.length, virtual_size())) return errc::out_of_range;
  const std::optional<result<extent>> found = do_try_map(range, effort);
  if (!found) return std::nullopt;
  check_extent(*found, range);
  if (!*found) return found->error();
  return mapping{**found, pins_.take()};
}

task<result<allocation>> image::allocate(byte_range range) {
  if (closed_) co_return errc::closed;
  if (!writable()) co_return errc::read_only;
  if (range.empty() || !fits(range.offset, range.length, virtual_size())) co_return errc::out_of_range;
  result<allocation> reserved = co_await do_allocate(range);
  if (reserved) {
    assert(reserved->guest.contains(range.offset));
    assert(may_change(reserved->guest));
    assert(reserved->head.empty() || reserved->head.end() == range.offset);
  }
  co_return reserved;
}

task<result<allocation>> image::allocate_encoded(byte_range unit, std::uint64_t byte_length) {
  if (closed_) co_return errc::closed;
  if (!writable()) co_return errc::read_only;
  const std::optional<unit_encoding> form = encoding();
  if (!form) co_return errc::not_supported;
  const bool whole =
      is_aligned(unit.offset, form->unit_bytes) && !unit.empty() &&
      fits(unit.offset, unit.length, virtual_size()) &&
      (unit.length == form->unit_bytes || (unit.end() == virtual_size() && unit.length < form->unit_bytes));
  if (!whole || byte_length == 0 || byte_length >= form->unit_bytes) co_return errc::out_of_range;
  result<allocation> reserved = co_await do_allocate_encoded(unit, byte_length);
  if (reserved) assert(reserved->guest == unit && reserved->encoded_length == byte_length);
  co_return reserved;
}

task<result<void>> image::publish(const allocation& reserved) {
  if (closed_) co_return errc::closed;
  co_return co_await do_publish(reserved);
}

task<result<void>> image::release(const allocation& reserved) {
  if (closed_) co_return errc::closed;
  co_return co_await do_release(reserved);
}

task<result<void>> image::zero(byte_range range, zero_mode mode) {
  if (closed_) co_return errc::closed;
  if (!writable()) co_return errc::read_only;
  if (!may_change(range)) co_return errc::out_of_range;
  if (range.empty()) co_return result<void>{};
  co_return co_await do_zero(range, mode);
}

task<result<void>> image::discard(byte_range range) {
  if (closed_) co_return errc::closed;
  if (!writable()) co_return errc::read_only;
  if (!may_change(range)) co_return errc::out_of_range;
  if (range.empty()) co_return result<void>{};
  co_return co_await do_discard(range);
}

task<result<void>> image::flush() {
  if (closed_) co_return errc::closed;
  if (!writable()) co_return result<void>{};
  co_return co_await do_flush();
}

task<result<void>> image::set_backing(std::optional<backing_reference> reference) {
  if (closed_) co_return errc::closed;
  if (!writable()) co_return errc::read_only;
  co_return co_await do_set_backing(std::move(reference));
}

task<outcome<void>> image::resize(std::uint64_t size, std::uint64_t zero_end) {
  const std::string& location = storage_at(0).location();
  if (closed_) co_return make_failure(errc::closed, location);
  if (!writable()) co_return make_failure(errc::read_only, location);
  assert(pins_.pin_count() == 0 && is_aligned(size, 512) && zero_end <= size);
  const outcome<void> done = co_await do_resize(size, zero_end);
  bump_epoch();
  co_return done;
}

task<outcome<void>> image::make_empty() {
  const std::string& location = storage_at(0).location();
  if (closed_) co_return make_failure(errc::closed, location);
  if (!writable()) co_return make_failure(errc::read_only, location);
  assert(pins_.pin_count() == 0);
  const outcome<void> done = co_await do_make_empty();
  bump_epoch();
  co_return done;
}

task<result<void>> image::close() {
  if (closed_) co_return result<void>{};
  assert(pins_.pin_count() == 0);
  closed_ = true;
  co_return co_await do_close();
}

}  // namespace weir
