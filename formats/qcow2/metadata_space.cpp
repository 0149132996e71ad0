#include "formats/qcow2/metadata_space.hpp"

#include <vector>

namespace weir::qcow2 {

task<result<byte_range>> metadata_space::place(std::span<const std::byte> bytes) {
  const geometry& shape = tables_.shape;
  if (bytes.empty()) co_return byte_range{};
  const result<cluster_run> run = co_await clusters_.reserve_run(shape.clusters_for(bytes.size()));
  if (!run) co_return run.error();
  const byte_range placed{shape.offset_of(run->first), bytes.size()};
  const std::uint64_t rest = (run->count << shape.cluster_bits) - placed.length;
  result<void> wrote = co_await tables_.file.write(placed.offset, bytes);
  if (wrote && rest > 0) {
    const std::vector<std::byte> zeros(static_cast<std::size_t>(rest));
    wrote = co_await tables_.file.write(placed.end(), zeros);
  }
  if (wrote) co_return placed;
  const result<void> ignored = co_await clusters_.give_back(*run);
  static_cast<void>(ignored);
  co_return wrote.error();
}

task<result<void>> metadata_space::free(byte_range range) {
  if (range.empty()) co_return result<void>{};
  std::vector<std::uint64_t> clusters;
  const cluster_run run = clusters_of(range);
  for (std::uint64_t cluster = run.first; cluster < run.end(); ++cluster) clusters.push_back(cluster);
  co_return co_await clusters_.release_now(clusters);
}

}  // namespace weir::qcow2
