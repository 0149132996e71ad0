#include "formats/qcow2/measure.hpp"

#include "formats/qcow2/create_options.hpp"

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

}  // namespace weir::qcow2
