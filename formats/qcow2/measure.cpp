#include "formats/qcow2/measure.hpp"

#include "formats/qcow2/bitmap_directory.hpp"
#include "formats/qcow2/create_options.hpp"

#include <bit>

namespace weir::qcow2 {
namespace {

std::uint64_t divide_up(std::uint64_t value, std::uint64_t unit) {
  return value / unit + (value % unit != 0 ? 1 : 0);
}

/// Clusters of refcount blocks and table that count `clusters` and themselves.
std::uint64_t count_clusters(const geometry& shape, std::uint64_t clusters) {
  std::uint64_t blocks = 0;
  std::uint64_t table = 0;
  while (true) {
    const std::uint64_t more_blocks = divide_up(clusters + blocks + table, shape.refcounts_per_block());
    const std::uint64_t more_table = divide_up(more_blocks, shape.cluster_size() / entry_bytes);
    if (more_blocks == blocks && more_table == table) return blocks + table;
    blocks = more_blocks;
    table = more_table;
  }
}

}  // namespace

outcome<size_estimate> measure_image(const image_create_options& options) {
  const outcome<header> head = parse_create_options(options);
  if (!head) return head.error();
  const geometry& shape = head->shape;
  const std::uint64_t data = shape.clusters_for(head->virtual_size);
  const std::uint64_t l2_tables = divide_up(data, shape.table_entries());
  const std::uint64_t l1_clusters = shape.clusters_for(l2_tables * entry_bytes);
  const std::uint64_t mapped = 1 + l2_tables + l1_clusters;
  size_estimate made;
  made.metadata_bytes = shape.offset_of(mapped + count_clusters(shape, mapped + data));
  made.content_bytes = shape.offset_of(data);
  made.grain = shape.cluster_size();
  // How much of a backing chain an overlay shares with its source is not known: all of it might differ.
  made.is_sparse = !head->backing;
  return made;
}

std::optional<std::uint64_t> measure_bitmaps(const image_create_options& options,
                                             std::span<const kept_bitmap> bitmaps) {
  const outcome<header> head = parse_create_options(options);
  if (!head || head->shape.version < 3) return std::nullopt;
  const geometry& shape = head->shape;
  std::uint64_t clusters = 0;
  std::uint64_t directory_bytes = 0;
  for (const kept_bitmap& each : bitmaps) {
    if (each.inconsistent) continue;
    const auto bits = static_cast<unsigned>(std::countr_zero(each.granularity));
    const std::uint64_t tables = bitmap_table_count(head->virtual_size, bits, shape);
    clusters += tables + shape.clusters_for(tables * entry_bytes);
    directory_bytes += bitmap_entry_length(bitmap_entry{.name = each.name});
  }
  return shape.offset_of(clusters + shape.clusters_for(directory_bytes));
}

}  // namespace weir::qcow2
