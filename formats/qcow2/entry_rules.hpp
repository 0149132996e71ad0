// What a check thinks of single table entries (images.md section 2): more forgiving than opening an image, since
// it wants to know what an entry still says and whether it can be put right. Pure.
//
// An entry is put right only where nothing has to be guessed: bits without a meaning are cleared; a cluster that
// reads as zero wherever it is loses a place that cannot be. Data in an impossible place stays as it is.
#pragma once

#include "engine/base/range.hpp"
#include "formats/qcow2/header.hpp"

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace weir::qcow2 {

/// What the meaning of an entry depends on.
struct entry_rules {
  entry_rules(const header& head, std::uint64_t file_size)
      : file_clusters(head.shape.clusters_for(file_size)),
        cluster_size(head.shape.cluster_size()),
        cluster_bits(head.shape.cluster_bits),
        version(head.shape.version),
        has_subclusters(head.has(incompatible_bit::extended_l2)),
        has_data_file(head.has(incompatible_bit::data_file)) {}

  std::uint64_t file_clusters;  ///< a last one in part counts
  std::uint64_t cluster_size;
  unsigned cluster_bits;
  unsigned version;
  bool has_subclusters;
  bool has_data_file;

  std::uint64_t entry_width() const noexcept { return has_subclusters ? 16 : 8; }
  std::uint64_t table_entries() const noexcept { return cluster_size / entry_width(); }
  /// Guest bytes that one L2 table maps.
  std::uint64_t table_span() const noexcept { return table_entries() * cluster_size; }
};

/// An L2 entry's words; `bitmap` is 0 without subclusters.
struct entry_words {
  std::uint64_t word = 0;
  std::uint64_t bitmap = 0;
  friend bool operator==(const entry_words&, const entry_words&) = default;
};

entry_words load_words(const std::byte* from, const entry_rules& rules) noexcept;
void store_words(std::byte* to, const entry_words& words, const entry_rules& rules) noexcept;

struct examined_entry {
  std::string_view fault;      ///< what is wrong with it; empty: nothing
  bool is_repairable = false;  ///< `repaired` says the same without the fault
  bool loses_data = false;     ///< the guest's data of this cluster cannot be found
  entry_words repaired;        ///< COPIED as it is stored
  byte_range host;             ///< bytes of this file it references; empty: none
  bool is_compressed = false;
  bool wants_copied = false;  ///< COPIED has to say whether the cluster's count is one
  bool is_copied = false;
};

/// `guest_offset` is where the entry's cluster begins on the disk.
examined_entry examine_l2_entry(const entry_words& words, std::uint64_t guest_offset,
                                const entry_rules& rules) noexcept;

/// An L1 entry; `host` is the L2 table.
struct examined_l1_entry {
  std::string_view fault;
  bool is_repairable = false;
  std::uint64_t repaired = 0;
  std::uint64_t table = 0;  ///< offset; 0: none, or none that can be followed
};
examined_l1_entry examine_l1_entry(std::uint64_t raw, const entry_rules& rules) noexcept;

}  // namespace weir::qcow2
