// What one open qcow2 image knows, shared by the code that maps and the code that changes.
#pragma once

#include "engine/storage/storage.hpp"
#include "formats/qcow2/entry_table.hpp"
#include "formats/qcow2/geometry.hpp"
#include "formats/qcow2/header.hpp"
#include "formats/qcow2/l2_entry.hpp"
#include "formats/qcow2/metadata_map.hpp"
#include "formats/qcow2/slice_cache.hpp"

#include <cstdint>
#include <optional>

namespace weir::qcow2 {

struct image_tables {
  image_tables(executor context, storage& from, const header& parsed, std::size_t l2_cache_bytes)
      : file(from),
        head(parsed),
        shape(parsed.shape),
        l1(parsed.l1_offset),
        l2(std::move(context), from, parsed.shape.slice_size(), l2_cache_bytes) {}

  storage& file;
  storage* data_file = nullptr;  ///< of images with external data: where extents lie
  header head;
  const geometry shape;
  entry_table l1;
  slice_cache l2;
  metadata_map metadata;

  /// Where guest cluster `cluster` is described: its L1 entry, and the slice and index of its L2 entry.
  struct place {
    std::uint64_t l1_index;
    std::uint64_t slice_in_table;  ///< bytes from the table's beginning
    std::uint64_t index_in_slice;
  };
  place place_of(std::uint64_t cluster) const noexcept {
    const std::uint64_t index = cluster & (shape.table_entries() - 1);
    const std::uint64_t index_in_slice = index & (shape.slice_entries() - 1);
    return {cluster >> shape.table_entries_bits(), (index - index_in_slice) * shape.l2_entry_bytes(),
            index_in_slice};
  }

  /// Offset of the L2 table of an L1 entry, 0 for none; empty where the entry contradicts the image.
  std::optional<std::uint64_t> l2_table(std::uint64_t l1_index) const noexcept {
    const auto offset = decode_l1_entry(l1[l1_index], shape);
    if (!offset || *offset == 0) return offset;
    const byte_range table{*offset, shape.cluster_size()};
    if (table.offset >= file.size() || metadata.hits_other_than_l2(table)) return std::nullopt;
    return offset;
  }

  /// Index (image::storage_at) of the storage that holds guest data.
  std::uint8_t data_index() const noexcept { return shape.external_data ? 1 : 0; }

  /// True if the entry of guest cluster `cluster` names host bytes in the file and outside all metadata, or, in
  /// a data file, at the guest's own offset.
  bool is_sound(const l2_entry& entry, std::uint64_t cluster) const noexcept {
    if (!shape.external_data) return is_sound(entry);
    const bool has_place = entry.kind == entry_kind::data || entry.kind == entry_kind::zero_allocated;
    return entry.kind != entry_kind::invalid && (!has_place || entry.host_offset == shape.offset_of(cluster));
  }

  /// The same where guest data lies in the image itself.
  bool is_sound(const l2_entry& entry) const noexcept {
    if (entry.kind == entry_kind::invalid) return false;
    const cluster_run run = referenced_clusters(entry, shape);
    if (run.count == 0) return true;
    const byte_range host{shape.offset_of(run.first), run.count << shape.cluster_bits};
    // What reads as zero needs no bytes in the file.
    const bool in_file = entry.kind == entry_kind::zero_allocated || entry.host_offset < file.size();
    return in_file && metadata.clear_prefix(host) == host.length;
  }
};

}  // namespace weir::qcow2
