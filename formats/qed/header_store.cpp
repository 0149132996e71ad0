#include "formats/qed/header_store.hpp"

#include <algorithm>
#include <array>
#include <cassert>
#include <span>
#include <utility>

namespace weir::qed {
namespace {

/// Places for names, each long enough for the longest and clear of the header's own sector. The smallest
/// cluster holds them, and no name touches all three.
constexpr std::array place_offsets{1 * KiB, 2 * KiB, 3 * KiB};

}  // namespace

header_store::header_store(executor context, storage& file, const header& current,
                           std::optional<backing_reference> backing)
    : file_(file), current_(current), backing_(std::move(backing)), changing_(std::move(context)) {}

task<result<void>> header_store::replace(header next) {
  const header_fields fields = encode_header(next);
  const result<void> wrote = co_await file_.write(0, fields);
  if (!wrote) co_return wrote.error();
  const result<void> flushed = co_await file_.flush();
  if (!flushed) co_return flushed.error();
  current_ = next;
  co_return result<void>{};
}

task<result<void>> header_store::mark_in_use() {
  if (current_.has(feature::need_check)) co_return result<void>{};
  const auto held = co_await changing_.acquire();
  if (current_.has(feature::need_check)) co_return result<void>{};
  header next = current_;
  next.features |= feature::need_check;
  co_return co_await replace(next);
}

task<result<void>> header_store::mark_clean() {
  const auto held = co_await changing_.acquire();
  header next = current_;
  next.features &= ~feature::need_check;
  next.autoclear_features = 0;
  if (next == current_) co_return result<void>{};
  co_return co_await replace(next);
}

task<result<void>> header_store::record_size(std::uint64_t image_bytes) {
  const auto held = co_await changing_.acquire();
  header next = current_;
  next.image_bytes = image_bytes;
  co_return co_await replace(next);
}

byte_range header_store::place_for_name(std::uint64_t length) const noexcept {
  // The old header must stay readable until the new one is durable: never over the name it refers to.
  const byte_range old = current_.has(feature::backing_file) ? current_.backing_name : byte_range{};
  const auto is_free = [old](std::uint64_t offset) { return !old.overlaps({offset, longest_backing_name}); };
  return {*std::ranges::find_if(place_offsets, is_free), length};
}

task<result<void>> header_store::write_name(byte_range where, const std::string& name) {
  const auto bytes = std::as_bytes(std::span(name));
  const result<void> wrote = co_await file_.write(where.offset, bytes);
  if (!wrote) co_return wrote.error();
  co_return co_await file_.flush();
}

task<result<void>> header_store::record_backing(std::optional<backing_reference> reference) {
  const auto held = co_await changing_.acquire();
  header next = current_;
  next.features = features_with_backing(current_.features, reference);
  next.backing_name = {};
  if (reference) {
    assert(is_recordable(reference->name));
    next.backing_name = place_for_name(reference->name.size());
    const result<void> named = co_await write_name(next.backing_name, reference->name);
    if (!named) co_return named.error();
  }
  const result<void> replaced = co_await replace(next);
  if (!replaced) co_return replaced.error();
  backing_.reset();
  if (reference) backing_ = describe_backing(next, std::move(reference->name));
  co_return result<void>{};
}

}  // namespace weir::qed
