// What a client has learnt of which parts of a remote, unchanging storage read as zero. Bounded: when full it forgets
// everything and learns anew.
#pragma once

#include "engine/base/range.hpp"

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>

namespace weir {

class allocation_map {
 public:
  static constexpr std::size_t most_runs = 64 * 1024;

  struct run {
    byte_range range;
    bool reads_zero = false;
  };

  /// What is known at `offset`: the run around it, as long as it is known to be.
  std::optional<run> find(std::uint64_t offset) const noexcept;
  /// To be called before what one answer tells is learnt, so that none of it is forgotten again at once.
  /// Precondition: count <= most_runs.
  void make_room(std::size_t count);
  /// Adds what was learnt; what is known already stays.
  void learn(byte_range range, bool reads_zero);

  std::size_t run_count() const noexcept { return runs_.size(); }

 private:
  struct end_and_kind {
    std::uint64_t end;
    bool reads_zero;
  };
  std::map<std::uint64_t, end_and_kind> runs_;  // by offset; disjoint, neighbours of one kind joined
};

}  // namespace weir
