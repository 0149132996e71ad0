#include "formats/qcow2/create_image.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/create_options.hpp"
#include "formats/qcow2/header_layout.hpp"
#include "formats/qcow2/refcount_codec.hpp"
#include "formats/qcow2/refcounts.hpp"

#include <utility>
#include <vector>

namespace weir::qcow2 {
namespace {

/// Clusters in file order: header, refcount table, refcount blocks, L1 table.
struct layout {
  std::uint64_t table = 0;
  std::uint64_t blocks = 0;
  std::uint64_t l1 = 0;
  std::uint64_t total() const noexcept { return 1 + table + blocks + l1; }
  friend bool operator==(const layout&, const layout&) = default;
};

layout plan(const geometry& shape, std::uint64_t l1_count) {
  layout made{1, 1, shape.clusters_for(l1_count * entry_bytes)};
  while (true) {
    const std::uint64_t blocks =
        (made.total() + shape.refcounts_per_block() - 1) / shape.refcounts_per_block();
    const layout next{shape.clusters_for(blocks * entry_bytes), blocks, made.l1};
    if (next == made) return made;
    made = next;
  }
}

/// Everything between the header and the L1 table.
std::vector<std::byte> make_counts(const geometry& shape, const layout& places) {
  const std::uint64_t cluster_size = shape.cluster_size();
  std::vector<std::byte> bytes(static_cast<std::size_t>((places.table + places.blocks) * cluster_size));
  for (std::uint64_t index = 0; index < places.blocks; ++index) {
    store_big(bytes.data() + index * entry_bytes, shape.offset_of(1 + places.table + index));
  }
  std::byte* blocks = bytes.data() + places.table * cluster_size;
  // The blocks are adjacent, so that the counts run on from one to the next.
  for (std::uint64_t cluster = 0; cluster < places.total(); ++cluster) {
    store_refcount(blocks, cluster, shape.refcount_order, 1);
  }
  return bytes;
}

task<result<void>> write_image(storage& into, const header& head, const layout& places) {
  const geometry& shape = head.shape;
  const result<std::vector<std::byte>> first_cluster = lay_out_header(head);
  if (!first_cluster) co_return first_cluster.error();
  const byte_range l1{head.l1_offset, shape.offset_of(places.l1)};
  result<void> done;
  // A file that grows reads as zero where nothing was written.
  if (into.capabilities().can_grow) {
    done = co_await into.truncate(l1.end());
  } else {
    done = co_await write_zeros(into, l1);
  }
  const std::vector<std::byte> counts = make_counts(shape, places);
  if (done) done = co_await into.write(head.refcount_table_offset, counts);
  if (done) done = co_await into.flush();
  // The magic comes last: no power loss leaves a header over unwritten tables.
  if (done) done = co_await into.write(0, *first_cluster);
  if (done) done = co_await into.flush();
  co_return done;
}

}  // namespace

task<outcome<void>> create_image(storage& into, image_create_options options) {
  outcome<header> head = parse_create_options(options);
  if (!head) co_return make_failure(head.error().code, into.location(), head.error().what);
  const geometry& shape = head->shape;
  const std::uint64_t span = shape.table_span();
  head->l1_count =
      static_cast<std::uint32_t>(head->virtual_size / span + (head->virtual_size % span != 0 ? 1 : 0));
  const layout places = plan(shape, head->l1_count);
  head->refcount_table_offset = shape.offset_of(1);
  head->refcount_table_clusters = static_cast<std::uint32_t>(places.table);
  head->l1_offset = shape.offset_of(1 + places.table + places.blocks);
  const result<void> wrote = co_await write_image(into, *head, places);
  if (wrote) co_return outcome<void>{};
  co_return make_failure(wrote.error(), into.location());
}

}  // namespace weir::qcow2
