// Writes a whole new refcount structure: where the old one cannot be trusted to hold the counts, or has no place
// for them.
//
// The new table and blocks lie behind the end of the file, or in clusters nobody uses where the storage cannot
// grow; the old ones are not touched. Once they are durable, one write of the header's first sector switches to
// them. Power loss before that leaves the image as it was. The old table and blocks are free afterwards.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "formats/qcow2/reference_survey.hpp"
#include "formats/qcow2/stored_counts.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace weir::qcow2 {

class count_rebuild {
 public:
  /// Both have been run and outlive this. On success the header in the file names the new table, and
  /// `survey.counts` tells which clusters count one.
  count_rebuild(reference_survey& survey, stored_counts& old)
      : survey_(survey), old_(old), shape_(survey.head().shape) {}

  task<outcome<void>> run();

 private:
  failure refuse(std::string_view why) const;
  /// Indexes of the blocks that the counts and the `new_clusters` from place_ on need, ascending.
  std::vector<std::uint64_t> needed_blocks(std::uint64_t new_clusters) const;
  bool find_place(std::uint64_t clusters);
  outcome<void> plan();
  task<result<void>> write_blocks();
  task<result<void>> fill_block(std::span<std::byte> block, std::uint64_t index);
  task<result<void>> write_table();
  task<result<void>> switch_header();

  reference_survey& survey_;
  stored_counts& old_;
  const geometry& shape_;
  std::vector<std::uint64_t> blocks_;  // indexes
  std::uint64_t table_clusters_ = 0;
  std::uint64_t place_ = 0;  // first cluster of the table; the blocks follow
};

}  // namespace weir::qcow2
