// What images that can only be read have in common: every change is refused.
#pragma once

#include "engine/block/image.hpp"

#include <optional>

namespace weir::qcow1 {

class read_only_image : public image {
 public:
  bool writable() const noexcept final { return false; }
  bool zeroes_fast() const noexcept final { return false; }
  snapshot_store* snapshots() noexcept final { return nullptr; }
  bitmap_store* bitmaps() noexcept final { return nullptr; }
  std::optional<unit_encoding> encoding() const noexcept final { return std::nullopt; }

 private:
  task<result<allocation>> do_allocate(byte_range range) final;
  task<result<allocation>> do_allocate_encoded(byte_range unit, std::uint64_t byte_length) final;
  task<result<void>> do_publish(const allocation& reserved) final;
  task<result<void>> do_release(const allocation& reserved) final;
  task<result<void>> do_zero(byte_range range, zero_mode mode) final;
  task<result<void>> do_discard(byte_range range) final;
  task<result<void>> do_flush() final;
  task<result<void>> do_set_backing(std::optional<backing_reference> reference) final;
  task<outcome<void>> do_resize(std::uint64_t size, std::uint64_t zero_end) final;
  task<outcome<void>> do_make_empty() final;
};

}  // namespace weir::qcow1
