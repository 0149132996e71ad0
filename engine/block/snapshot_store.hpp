// Internal snapshots of an image: earlier states of the disk that share its file.
//
// Changes want the image to themselves: no mapping is held and nothing else runs on it, neither before nor until they
// return. All are crash-safe: a power loss leaves the state before or after, and at worst space that a check gives
// back. They flush the image first.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

struct snapshot_info {
  std::string id;
  std::string name;
  std::uint32_t date_s = 0;  ///< seconds since 1970
  std::uint32_t date_ns = 0;
  std::uint64_t vm_clock_ns = 0;
  std::uint64_t vm_state_bytes = 0;  ///< 0: the disk only
  std::uint64_t disk_bytes = 0;      ///< virtual size at that time; the image's own where it is not recorded
  std::optional<std::uint64_t> icount;
};

class snapshot_store {
 public:
  snapshot_store() = default;
  snapshot_store(const snapshot_store&) = delete;
  snapshot_store& operator=(const snapshot_store&) = delete;
  virtual ~snapshot_store() = default;

  /// In the order of the table.
  virtual std::vector<snapshot_info> list() const = 0;
  /// Why the table cannot be read to its end; empty if it can. Then list() has what comes before.
  virtual const std::string& damage() const noexcept = 0;

  /// Adds a snapshot of the disk as it reads now. id and disk_bytes are chosen here.
  /// Errors: a name that is taken; reference counts too narrow to share clusters; ENOSPC; read_only.
  task<outcome<void>> create(snapshot_info wanted);
  /// The disk reads as it did then; what it reads now is lost. Takes the virtual size of that time, and changes
  /// answers about in_place: image::epoch() moves.
  task<outcome<void>> apply(std::string id);
  /// Forgets the snapshot and gives back the space that only it used.
  task<outcome<void>> remove(std::string id);

 private:
  virtual task<outcome<void>> do_create(snapshot_info wanted) = 0;
  virtual task<outcome<void>> do_apply(std::string id) = 0;
  virtual task<outcome<void>> do_remove(std::string id) = 0;
};

/// The snapshot whose ID or name is `wanted`. Errors name `location`: there is none, or the ID of one is the name of
/// another, or several have the name.
outcome<snapshot_info> find_snapshot(std::span<const snapshot_info> among, std::string_view wanted,
                                     std::string_view location);

}  // namespace weir
