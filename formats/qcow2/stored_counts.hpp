// The refcounts as they stand in the file, beside the references a survey has counted.
//
// The order of a repair (see check_image.hpp) wants counts raised, other things put right, and only then counts
// lowered; hence passes. Each pass goes through the refcount blocks once, holes left out.
//
// Where the table or a block is damaged or missing, raising counts in place is not enough: must_rebuild().
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/block/check.hpp"
#include "formats/qcow2/reference_survey.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace weir::qcow2 {

class stored_counts {
 public:
  /// `survey` has been run; it outlives this.
  stored_counts(reference_survey& survey, repair_mode repair);

  /// Reads the table, judges its entries and counts what table and blocks take themselves.
  task<result<void>> load();

  /// Compares every count with the references, tells the log, and notes for the COPIED flags which clusters
  /// will count one when the repair is done.
  task<result<void>> compare();
  task<result<void>> raise() { return run(pass::raise); }
  task<result<void>> lower() { return run(pass::lower); }

  /// True if counts in place cannot say what they must: known after compare().
  bool must_rebuild() const noexcept { return damaged_ || uncovered_; }
  /// True if a cluster has more references than its count can say, whatever is repaired: known after compare().
  bool overflows() const noexcept { return overflows_; }
  /// The count a cluster will have when the repair is done.
  std::uint64_t settled(std::uint64_t stored, std::uint64_t references) const noexcept;

  // For the rebuild.
  /// Offset of the sound block at that index, 0 for none.
  std::uint64_t block(std::uint64_t index) const noexcept {
    return index < blocks_.size() ? blocks_[index] : 0;
  }
  std::uint64_t block_count() const noexcept { return blocks_.size(); }
  /// Takes table and blocks out of the references: a new structure replaces them.
  void forget_places();

 private:
  enum class pass : std::uint8_t { look, raise, lower };

  void judge(std::uint64_t raw, std::uint64_t index);
  task<result<void>> run(pass what);
  task<result<void>> run_block(std::uint64_t index, pass what);
  void look_at_uncovered(std::uint64_t first, std::uint64_t end);
  void lament(std::uint64_t index, error_code why);
  /// The counts from cluster `first` on; true if they have changed.
  bool run_piece(std::span<std::byte> piece, std::uint64_t first, pass what);
  void look_at(std::uint64_t cluster, std::uint64_t stored, std::uint64_t references);

  reference_survey& survey_;
  const geometry& shape_;
  repair_mode repair_;
  std::vector<std::uint64_t> blocks_;  // by index; 0 where there is none or it is damaged
  std::vector<byte_range> places_;     // table and blocks that have been counted
  std::uint64_t end_cluster_ = 0;      // behind the last one in use
  bool damaged_ = false;
  bool uncovered_ = false;
  bool overflows_ = false;
};

}  // namespace weir::qcow2
