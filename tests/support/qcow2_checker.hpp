// An independent reading of a qcow2 file: recomputes all reference counts from the raw bytes. Shares no code
// with formats/qcow2, so that both must be wrong in the same way for a mistake to pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace weir::test {

struct qcow2_report {
  /// What must never be on a disk: pointers to nothing, counts below the references, COPIED over shared
  /// clusters, clusters used twice.
  std::vector<std::string> errors;
  std::uint64_t leaked_clusters = 0;  ///< counted higher than referenced: allowed after a crash
  std::uint64_t missing_copied = 0;   ///< COPIED clear although the count is one: allowed, but slow
  std::uint64_t used_clusters = 0;    ///< data and compressed clusters the active tables name
  bool is_clean() const { return errors.empty() && leaked_clusters == 0 && missing_copied == 0; }
  std::string text() const;
};

/// `file` is the whole file. Internal snapshots and bitmaps are followed.
qcow2_report check_qcow2(std::span<const std::byte> file);

}  // namespace weir::test
