// Storage in memory, for tests and throw-away overlays. Sparse: untouched 64 KiB pages take no memory.
#pragma once

#include "engine/storage/sparse_bytes.hpp"
#include "engine/storage/storage.hpp"

#include <string>

namespace weir {

class memory_storage final : public storage {
 public:
  /// A storage of `size` zero bytes that grows.
  explicit memory_storage(std::string location, std::uint64_t size = 0);

  const std::string& location() const noexcept override { return location_; }
  const storage_capabilities& capabilities() const noexcept override { return capabilities_; }
  std::uint64_t size() const noexcept override { return content_.size(); }
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  void note_descriptor_write(byte_range) noexcept override {}  // has no descriptor
  std::optional<identity_type> identity() const noexcept override { return std::nullopt; }

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override;
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override;
  task<result<void>> do_flush() override;
  task<result<void>> do_zero(byte_range range, zero_mode mode) override;
  task<result<void>> do_discard(byte_range range) override;
  task<result<void>> do_truncate(std::uint64_t length) override;
  task<result<storage_run>> do_status(byte_range range) override;
  task<result<void>> do_close() override;

  std::string location_;
  storage_capabilities capabilities_;
  sparse_bytes content_;
};

}  // namespace weir
