// The guest's bytes of one image as libqcow reads them, through the helper process weir-qcow-reader: a read-only
// storage whose offsets are guest offsets.
//
//   idle → (first read) starting → ready ⇄ reading → (the helper fails) idle: the read fails, the next one starts anew
//
// Reads take turns: libqcow serialises them anyway. Asking for what the image does not allocate is the caller's fault
// (it fails): an image's own map says what may be asked for. There is no descriptor, so the engine reads through the
// storage and never hands positions of the image file to a worker.
#pragma once

#include "engine/storage/storage.hpp"
#include "formats/qcow1/child_process.hpp"
#include "formats/qcow1/reader_protocol.hpp"
#include "formats/qcow2/async_lock.hpp"

#include <memory>
#include <optional>
#include <string>

namespace weir::qcow1 {

class library_storage final : public storage {
 public:
  /// Precondition: `image_file` has a descriptor and outlives this.
  library_storage(executor context, storage& image_file, const reader_setup& setup);

  const std::string& location() const noexcept override { return file_.location(); }
  const storage_capabilities& capabilities() const noexcept override { return capabilities_; }
  std::uint64_t size() const noexcept override { return setup_.virtual_size; }
  std::optional<int> descriptor() const noexcept override { return std::nullopt; }
  void note_descriptor_write(byte_range) noexcept override {}  // has no descriptor
  std::optional<identity_type> identity() const noexcept override { return std::nullopt; }

  /// What libqcow said when it last refused something; empty if it did not.
  const std::string& last_words() const noexcept { return last_words_; }

 private:
  task<result<void>> do_read(std::uint64_t offset, std::span<std::byte> buffer) override;
  task<result<void>> do_write(std::uint64_t offset, std::span<const std::byte> data) override;
  task<result<void>> do_flush() override;
  task<result<void>> do_zero(byte_range range, zero_mode mode) override;
  task<result<void>> do_discard(byte_range range) override;
  task<result<void>> do_truncate(std::uint64_t length) override;
  task<result<storage_run>> do_status(byte_range range) override;
  task<result<void>> do_close() override;

  task<result<void>> start();
  task<result<void>> ask(reader_request request, std::span<std::byte> into);
  task<result<void>> take_answer(std::span<std::byte> into);
  task<error_code> bury();

  executor context_;
  storage& file_;
  reader_setup setup_;
  storage_capabilities capabilities_;
  qcow2::async_lock turns_;
  std::unique_ptr<child_process> helper_;
  std::string last_words_;
};

/// Where the helper is: beside the running program, or where it is installed. Empty if it is nowhere.
std::string find_reader();

}  // namespace weir::qcow1
