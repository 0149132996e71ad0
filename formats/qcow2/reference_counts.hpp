// How often each host cluster of a file is referenced, counted from the image's own tables. Pure.
//
// Memory follows what is referenced, not the length of the file: counts live in chunks of neighbouring clusters
// that come into being with their first reference, two bytes to a cluster. Two bits beside each count hold what
// a check wants to know later.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <unordered_map>

namespace weir::qcow2 {

class reference_counts {
 public:
  void add(std::uint64_t cluster, std::uint64_t times = 1);
  /// One reference less. Precondition: count(cluster) > 0.
  void remove(std::uint64_t cluster);
  std::uint64_t count(std::uint64_t cluster) const noexcept;
  /// The lowest cluster at or above `from` that is referenced.
  std::optional<std::uint64_t> next(std::uint64_t from) const noexcept;

  /// Belongs to the image's own tables.
  bool is_metadata(std::uint64_t cluster) const noexcept { return (cell(cluster) & metadata_bit) != 0; }
  void set_metadata(std::uint64_t cluster, bool value) { set_bit(cluster, metadata_bit, value); }
  /// The count in the image is one: what COPIED flags have to say.
  bool is_stored_once(std::uint64_t cluster) const noexcept { return (cell(cluster) & stored_once_bit) != 0; }
  void set_stored_once(std::uint64_t cluster, bool value) { set_bit(cluster, stored_once_bit, value); }

  /// More clusters than a check may hold in memory; counts are wrong from then on.
  bool is_full() const noexcept { return full_; }

 private:
  static constexpr std::uint64_t chunk_clusters = 128;
  static constexpr std::uint64_t most_chunks = std::uint64_t{1} << 23;  // 2^30 clusters, 2.5 GiB of memory
  static constexpr std::uint16_t metadata_bit = 1U << 15;
  static constexpr std::uint16_t stored_once_bit = 1U << 14;
  static constexpr std::uint16_t count_mask = stored_once_bit - 1;  // all ones: the count is in many_
  using chunk = std::array<std::uint16_t, chunk_clusters>;

  std::uint16_t cell(std::uint64_t cluster) const noexcept;
  std::uint16_t* make_cell(std::uint64_t cluster);
  void set_bit(std::uint64_t cluster, std::uint16_t bit, bool value);
  void set_count(std::uint64_t cluster, std::uint16_t& into, std::uint64_t count);

  std::map<std::uint64_t, chunk> chunks_;
  std::unordered_map<std::uint64_t, std::uint64_t> many_;
  // The chunk used last: tables name neighbours.
  mutable std::uint64_t recent_index_ = ~std::uint64_t{0};
  mutable chunk* recent_ = nullptr;
  bool full_ = false;
};

}  // namespace weir::qcow2
