// Answers where guest ranges are, from cached tables only. No I/O.
#pragma once

#include "engine/base/error.hpp"
#include "engine/block/image.hpp"
#include "formats/qcow2/image_tables.hpp"

#include <cstdint>
#include <optional>

namespace weir::qcow2 {

class mapper {
 public:
  mapper(image_tables& tables, bool writable) noexcept : tables_(tables), writable_(writable) {}
  /// From now on nothing is in place.
  void stop_writing() noexcept { writable_ = false; }

  /// The extent at range.offset, as far as the cached slices tell; empty if the first is not cached.
  /// Precondition: `range` is not empty and inside the virtual size.
  std::optional<result<extent>> map(byte_range range);
  /// The slice that map() lacks for this offset. Precondition: map() just answered that it lacks one.
  std::uint64_t missing_slice(std::uint64_t guest_offset) const;

 private:
  struct run;

  /// Extends `run` with entries of one slice or one absent table; false at the end of the run.
  bool extend(run& found, std::uint64_t last_cluster);
  bool extend_absent(run& found, std::uint64_t last_unit);
  bool extend_subclusters(run& found, std::uint64_t last_subcluster);
  bool continues(const run& found, const l2_entry& next) const;
  bool start(run& found, std::uint64_t raw) const;
  std::uint64_t count_same(const run& found, const std::byte* entries, std::uint64_t most) const;
  void clip_to_host(run& found) const;
  result<extent> answer(const run& found, byte_range range) const;

  image_tables& tables_;
  bool writable_;
};

}  // namespace weir::qcow2
