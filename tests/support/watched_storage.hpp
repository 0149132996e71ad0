// A storage around another one that counts what is read and can refuse to zero.
#pragma once

#include "engine/storage/storage.hpp"

#include <memory>
#include <utility>

namespace weir::test {

struct storage_watch {
  std::uint64_t reads = 0;
  std::uint64_t read_bytes = 0;
  std::uint64_t writes = 0;
  bool refuses_zero = false;
};

class watched_storage final : public storage {
 public:
  /// `watch` outlives the storage.
  watched_storage(std::unique_ptr<storage> inner, storage_watch& watch)
      : inner_(std::move(inner)), watch_(watch) {}

  const std::string& location() const noexcept override { return inner_->location(); }
  const storage_capabilities& capabilities() const noexcept override { return inner_->capabilities(); }
  std::uint64_t size() const noexcept override { return inner_->size(); }
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  void note_descriptor_write(byte_range) noexcept override {}  // has no descriptor
  std::optional<identity_type> identity() const noexcept override { return inner_->identity(); }

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override {
    ++watch_.reads;
    watch_.read_bytes += buffer.size();
    return inner_->read(offset, buffer);
  }
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override {
    ++watch_.writes;
    return inner_->write(offset, data);
  }
  task<result<void>> do_flush() override { return inner_->flush(); }
  task<result<void>> do_zero(byte_range range, zero_mode mode) override {
    if (watch_.refuses_zero) co_return errc::not_supported;
    co_return co_await inner_->zero(range, mode);
  }
  task<result<void>> do_discard(byte_range range) override { return inner_->discard(range); }
  task<result<void>> do_truncate(std::uint64_t length) override { return inner_->truncate(length); }
  task<result<storage_run>> do_status(byte_range range) override { return inner_->status(range); }
  task<result<void>> do_close() override { return inner_->close(); }

  std::unique_ptr<storage> inner_;
  storage_watch& watch_;
};

}  // namespace weir::test
