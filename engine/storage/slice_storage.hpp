// A window of another storage as a storage of its own: fixed length, usable under any format.
#pragma once

#include "engine/storage/storage.hpp"

#include <memory>
#include <string>

namespace weir {

class slice_storage final : public storage {
 public:
  /// Precondition: `window` lies inside inner->size(); open_slice() checks.
  slice_storage(std::unique_ptr<storage> inner, byte_range window);

  const std::string& location() const noexcept override { return location_; }
  const storage_capabilities& capabilities() const noexcept override { return capabilities_; }
  std::uint64_t size() const noexcept override { return window_.length; }
  /// None: positions on the inner descriptor are not positions of the slice.
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  void note_descriptor_write(byte_range) noexcept override {}  // has no descriptor
  std::optional<identity_type> identity() const noexcept override { return inner_->identity(); }

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override;
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override;
  task<result<void>> do_flush() override;
  task<result<void>> do_zero(byte_range range, zero_mode mode) override;
  task<result<void>> do_discard(byte_range range) override;
  task<result<void>> do_truncate(std::uint64_t length) override;
  task<result<storage_run>> do_status(byte_range range) override;
  task<result<void>> do_close() override;

  byte_range outer(byte_range range) const noexcept { return {window_.offset + range.offset, range.length}; }

  std::unique_ptr<storage> inner_;
  byte_range window_;
  storage_capabilities capabilities_;
  std::string location_;
};

/// Takes `inner` over; closes it if `window` (any values) does not lie inside it. May suspend.
task<outcome<std::unique_ptr<storage>>> open_slice(std::unique_ptr<storage> inner, byte_range window);

}  // namespace weir
