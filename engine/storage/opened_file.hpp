// Opening what a local storage stands on: blocking, by value, for a worker.
#pragma once

#include "engine/base/error.hpp"
#include "engine/storage/direct_alignment.hpp"
#include "engine/storage/file_descriptor.hpp"
#include "engine/storage/local_file.hpp"

#include <cstdint>
#include <optional>
#include <string>

namespace weir {

/// A regular file or block device, open and locked.
struct opened_file {
  file_descriptor descriptor;
  bool is_regular = false;    ///< else a block device
  bool is_passed = false;     ///< its open file is shared with whoever passed the descriptor
  bool in_memory = false;     ///< tmpfs: reading and writing a little never waits for a device
  bool syncs_writes = false;  ///< O_DSYNC
  bool can_grow = false;
  std::uint64_t size = 0;
  std::uint32_t sector_bytes = 1;             ///< block device: unit of its requests
  std::optional<direct_alignment> alignment;  ///< set with O_DIRECT
  storage::identity_type identity{};
};

/// See open_local_file(). Leaves no created file behind when it fails.
outcome<opened_file> open_file(const std::string& path, const local_file_options& options);

}  // namespace weir
