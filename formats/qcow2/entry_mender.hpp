// Goes through the tables of an image once more, to check the COPIED flags against the counts and to put entries
// right.
//
// Two steps write, so that counts can be lowered between them: mend() puts right what an entry says and clears
// COPIED where the cluster is shared, mark() sets COPIED where the cluster counts one.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "formats/qcow2/reference_survey.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace weir::qcow2 {

class entry_mender {
 public:
  /// `survey` has been run and knows which clusters count one; it outlives this.
  explicit entry_mender(reference_survey& survey) : survey_(survey), rules_(survey.rules()) {}

  /// Tells the log of wrong COPIED flags.
  task<result<void>> look() { return run(step::look); }
  /// The same, and repairs. Durable on return.
  task<result<void>> mend() { return run(step::mend); }
  /// Precondition: mend() has been run. Durable on return.
  task<result<void>> mark() { return run(step::mark); }
  /// COPIED flags that are missing still.
  std::uint64_t missing_count() const noexcept { return missing_; }
  /// COPIED flags over clusters that do not count one.
  std::uint64_t shared_count() const noexcept { return shared_; }

 private:
  enum class step : std::uint8_t { look, mend, mark };

  task<result<void>> run(step what);
  task<result<void>> run_l1(const l1_place& place, step what);
  task<result<void>> run_l2(const l2_use& use, step what);
  bool mend_l1_entries(std::span<std::byte> entries, std::uint64_t index, bool active, step what);
  bool mend_l2_entries(std::span<std::byte> entries, std::uint64_t index, const l2_use& use, step what);
  /// `word`, whose COPIED flag is not as `wanted`, as it is to be after this step.
  std::uint64_t with_copied(std::uint64_t word, bool wanted, const std::string& name, step now);
  task<result<void>> settle(bool changed, std::uint64_t offset, std::span<const std::byte> bytes);

  reference_survey& survey_;
  const entry_rules& rules_;
  std::uint64_t missing_ = 0;
  std::uint64_t shared_ = 0;
  bool wrote_ = false;
};

}  // namespace weir::qcow2
