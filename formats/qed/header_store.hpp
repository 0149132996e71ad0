// The header of an open image and its durable changes. Each change is one write of one sector between two
// flushes, so that a power loss leaves the header before or after it.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/image.hpp"
#include "engine/storage/storage.hpp"
#include "formats/qcow2/async_lock.hpp"
#include "formats/qed/header.hpp"

#include <optional>

namespace weir::qed {

class header_store {
 public:
  /// `file` outlives the store.
  header_store(executor context, storage& file, const header& current,
               std::optional<backing_reference> backing);

  const header& current() const noexcept { return current_; }
  const std::optional<backing_reference>& backing() const noexcept { return backing_; }

  /// Sets the need-check bit, durably; once it is set this neither writes nor suspends.
  task<result<void>> mark_in_use();
  /// Clears the need-check bit and the autoclear bits. Precondition: all other metadata is durable.
  task<result<void>> mark_clean();
  /// Records another backing image. Precondition: is_recordable, and all other metadata is durable.
  task<result<void>> record_backing(std::optional<backing_reference> reference);
  /// Records another virtual size. Precondition: all other metadata is durable.
  task<result<void>> record_size(std::uint64_t image_bytes);

 private:
  task<result<void>> replace(header next);
  task<result<void>> write_name(byte_range where, const std::string& name);
  byte_range place_for_name(std::uint64_t length) const noexcept;

  storage& file_;
  header current_;
  std::optional<backing_reference> backing_;
  qcow2::async_lock changing_;
};

}  // namespace weir::qed
