#include "formats/qcow2/create_image.hpp"

#include "engine/base/endian.hpp"
#include "engine/base/zero_scan.hpp"
#include "formats/qcow2/create_options.hpp"
#include "formats/qcow2/header_layout.hpp"
#include "formats/qcow2/l2_entry.hpp"
#include "formats/qcow2/refcount_codec.hpp"
#include "formats/qcow2/refcounts.hpp"

#include <algorithm>
#include <cerrno>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace weir::qcow2 {
namespace {

constexpr std::uint64_t step_bytes = 1 * MiB;

/// Clusters in file order: header, refcount table, refcount blocks, L1 table; preallocated: L2 tables, data.
struct layout {
  std::uint64_t table = 1;
  std::uint64_t blocks = 1;
  std::uint64_t l1 = 0;
  std::uint64_t l2 = 0;
  std::uint64_t data = 0;
  std::uint64_t first_l1() const noexcept { return 1 + table + blocks; }
  std::uint64_t first_l2() const noexcept { return first_l1() + l1; }
  std::uint64_t first_data() const noexcept { return first_l2() + l2; }
  std::uint64_t total() const noexcept { return first_data() + data; }
  friend bool operator==(const layout&, const layout&) = default;
};

layout plan(const header& head, bool preallocated) {
  const geometry& shape = head.shape;
  layout made;
  made.l1 = shape.clusters_for(head.l1_count * entry_bytes);
  if (preallocated) made.l2 = head.l1_count;
  if (preallocated && !shape.external_data) made.data = shape.clusters_for(head.virtual_size);
  while (true) {
    layout next = made;
    next.blocks = (made.total() + shape.refcounts_per_block() - 1) / shape.refcounts_per_block();
    next.table = shape.clusters_for(next.blocks * entry_bytes);
    if (next == made) return made;
    made = next;
  }
}

/// Writes one new image, its parts in any order but the header last.
class image_maker {
 public:
  image_maker(storage& into, const header& head, const layout& places, preallocation mode)
      : into_(into), head_(head), shape_(head.shape), places_(places), mode_(mode) {}

  task<result<void>> write();
  /// The guest's bytes in a data file that reads as zero and grows.
  static task<result<void>> prepare_data(storage& data, byte_range range, preallocation mode);

 private:
  task<result<void>> write_words(std::uint64_t first_cluster, std::uint64_t count,
                                 std::uint64_t (*word)(const image_maker&, std::uint64_t));
  task<result<void>> write_blocks();
  task<result<void>> write_data();

  static std::uint64_t table_word(const image_maker& self, std::uint64_t index);
  static std::uint64_t l1_word(const image_maker& self, std::uint64_t index);
  static std::uint64_t l2_word(const image_maker& self, std::uint64_t index);

  storage& into_;
  const header& head_;
  const geometry& shape_;
  const layout& places_;
  preallocation mode_;
};

std::uint64_t image_maker::table_word(const image_maker& self, std::uint64_t index) {
  if (index >= self.places_.blocks) return 0;
  return self.shape_.offset_of(1 + self.places_.table + index);
}

std::uint64_t image_maker::l1_word(const image_maker& self, std::uint64_t index) {
  if (index >= self.places_.l2) return 0;
  return encode_data_entry(self.shape_.offset_of(self.places_.first_l2() + index));
}

/// With subclusters every other word is a bitmap. Preallocated ones stay unallocated, so that a backing image
/// shows; those of a raw data file are the guest's.
std::uint64_t image_maker::l2_word(const image_maker& self, std::uint64_t index) {
  const geometry& shape = self.shape_;
  const std::uint64_t cluster = shape.extended_l2 ? index / 2 : index;
  if (cluster >= shape.clusters_for(self.head_.virtual_size)) return 0;
  if (shape.extended_l2 && index % 2 != 0) return self.head_.has_raw_data_file() ? all_subclusters : 0;
  return encode_data_entry(shape.offset_of(cluster + (shape.external_data ? 0 : self.places_.first_data())));
}

/// `count` clusters of table entries.
task<result<void>> image_maker::write_words(std::uint64_t first_cluster, std::uint64_t count,
                                            std::uint64_t (*word)(const image_maker&, std::uint64_t)) {
  const std::uint64_t words = (count << shape_.cluster_bits) / entry_bytes;
  std::vector<std::byte> bytes;
  for (std::uint64_t done = 0; done < words; done += bytes.size() / entry_bytes) {
    bytes.resize(static_cast<std::size_t>(std::min<std::uint64_t>(words - done, step_bytes / entry_bytes) *
                                          entry_bytes));
    for (std::uint64_t index = 0; index < bytes.size() / entry_bytes; ++index) {
      store_big(bytes.data() + index * entry_bytes, word(*this, done + index));
    }
    // A file that grows has a hole there already.
    if (into_.capabilities().can_grow && is_all_zero(bytes)) continue;
    const result<void> wrote =
        co_await into_.write(shape_.offset_of(first_cluster) + done * entry_bytes, bytes);
    if (!wrote) co_return wrote;
  }
  co_return result<void>{};
}

task<result<void>> image_maker::write_blocks() {
  std::vector<std::byte> block(static_cast<std::size_t>(shape_.cluster_size()));
  for (std::uint64_t index = 0; index < places_.blocks; ++index) {
    for (std::uint64_t at = 0; at < shape_.refcounts_per_block(); ++at) {
      const bool used = index * shape_.refcounts_per_block() + at < places_.total();
      store_refcount(block.data(), at, shape_.refcount_order, used ? 1 : 0);
    }
    const result<void> wrote = co_await into_.write(shape_.offset_of(1 + places_.table + index), block);
    if (!wrote) co_return wrote;
  }
  co_return result<void>{};
}

task<result<void>> image_maker::prepare_data(storage& data, byte_range range, preallocation mode) {
  if (range.empty()) co_return result<void>{};
  if (mode == preallocation::falloc) {
    const result<void> reserved = co_await data.zero(range, zero_mode::keep_allocated);
    if (reserved || reserved.error() != errc::not_supported) co_return reserved;
  }
  const bool reads_zero = data.capabilities().can_grow;
  if (mode == preallocation::metadata && reads_zero) co_return result<void>{};
  co_return co_await write_zeros(data, range);
}

task<result<void>> image_maker::write_data() {
  const byte_range data{shape_.offset_of(places_.first_data()), shape_.offset_of(places_.data)};
  // Subclusters that are not allocated are not read.
  if (shape_.extended_l2 && mode_ == preallocation::metadata) co_return result<void>{};
  co_return co_await prepare_data(into_, data, mode_);
}

task<result<void>> image_maker::write() {
  const result<std::vector<std::byte>> first_cluster = lay_out_header(head_);
  if (!first_cluster) co_return first_cluster.error();
  const std::uint64_t length = shape_.offset_of(places_.total());
  result<void> done;
  // A file that grows reads as zero where nothing was written.
  if (into_.capabilities().can_grow) done = co_await into_.truncate(length);
  if (done && into_.size() < length) done = errno_code(ENOSPC);
  if (done) done = co_await write_words(1, places_.table, &image_maker::table_word);
  if (done) done = co_await write_blocks();
  if (done) done = co_await write_words(places_.first_l1(), places_.l1, &image_maker::l1_word);
  if (done) done = co_await write_words(places_.first_l2(), places_.l2, &image_maker::l2_word);
  if (done) done = co_await write_data();
  if (done) done = co_await into_.flush();
  // The magic comes last: no power loss leaves a header over unwritten tables.
  if (done) done = co_await into_.write(0, *first_cluster);
  if (done) done = co_await into_.flush();
  co_return done;
}

task<outcome<void>> make_data_file(const image_create_options& options, const header& head,
                                   std::string_view location) {
  if (!options.create_data_file) {
    co_return make_failure(errc::unsupported_feature, location, "option data_file: cannot be made here");
  }
  auto made = co_await options.create_data_file(head.data_file, true);
  if (!made) co_return made.error();
  storage& data = **made;
  const byte_range all{0, head.virtual_size};
  result<void> done = co_await data.truncate(all.length);
  // A device keeps its length: it only has to be long enough.
  if (!done && done.error() == errc::not_supported && data.size() >= all.length) done = result<void>();
  const preallocation mode = preallocation_of(options);
  if (done && mode != preallocation::off) done = co_await image_maker::prepare_data(data, all, mode);
  if (done) done = co_await data.flush();
  const std::string data_location = data.location();
  const result<void> closed = co_await data.close();
  if (done) done = closed;
  if (!done) co_return make_failure(done.error(), data_location);
  co_return outcome<void>{};
}

}  // namespace

task<outcome<void>> create_image(storage& into, image_create_options options) {
  outcome<header> head = parse_create_options(options);
  if (!head) co_return make_failure(head.error().code, into.location(), head.error().what);
  const geometry& shape = head->shape;
  const std::uint64_t span = shape.table_span();
  head->l1_count =
      static_cast<std::uint32_t>(head->virtual_size / span + (head->virtual_size % span != 0 ? 1 : 0));
  const preallocation mode = preallocation_of(options);
  const layout places = plan(*head, mode != preallocation::off);
  if (shape.offset_of(places.table) > largest_refcount_table_bytes) {
    co_return make_failure(errc::unsupported_feature, into.location(),
                           "option preallocation: the refcount table would be too big");
  }
  head->refcount_table_offset = shape.offset_of(1);
  head->refcount_table_clusters = static_cast<std::uint32_t>(places.table);
  head->l1_offset = shape.offset_of(places.first_l1());
  if (shape.external_data) {
    const outcome<void> made = co_await make_data_file(options, *head, into.location());
    if (!made) co_return made.error();
  }
  image_maker maker(into, *head, places, mode);
  const result<void> wrote = co_await maker.write();
  if (wrote) co_return outcome<void>{};
  co_return make_failure(wrote.error(), into.location());
}

}  // namespace weir::qcow2
