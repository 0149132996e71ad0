#include "formats/qcow2/reference_tree.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/l2_entry.hpp"

#include <cerrno>
#include <optional>

namespace weir::qcow2 {
namespace {

/// The entries of one L2 slice.
class slice_entries {
 public:
  slice_entries(const std::byte* slice, const geometry& shape) : slice_(slice), shape_(shape) {}

  std::uint64_t count() const noexcept { return shape_.slice_entries(); }
  l2_entry operator[](std::uint64_t index) const noexcept {
    return decode_l2_entry(load_l2_entry(slice_ + index * shape_.l2_entry_bytes(), shape_), shape_);
  }

 private:
  const std::byte* slice_;
  const geometry& shape_;
};

void flip_copied(std::byte* slice, std::uint64_t index, const geometry& shape) {
  std::byte* word = slice + index * shape.l2_entry_bytes();
  store_big(word, load_big<std::uint64_t>(word) ^ copied_flag);
}

void append_clusters(std::vector<std::uint64_t>& into, const l2_entry& entry, const geometry& shape) {
  const cluster_run run = referenced_clusters(entry, shape);
  for (std::uint64_t cluster = run.first; cluster < run.end(); ++cluster) into.push_back(cluster);
}

bool may_be_copied(const l2_entry& entry) noexcept {
  return entry.kind == entry_kind::data || entry.kind == entry_kind::zero_allocated;
}

}  // namespace

result<std::uint64_t> reference_tree::table_of(std::uint64_t raw) const {
  const auto offset = decode_l1_entry(raw, tables_.shape);
  if (!offset) return errc::corrupt_image;
  if (*offset == 0) return *offset;
  const byte_range table{*offset, tables_.shape.cluster_size()};
  if (table.offset >= tables_.file.size() || tables_.metadata.hits_other_than_l2(table)) {
    return errc::corrupt_image;
  }
  return *offset;
}

task<result<void>> reference_tree::fetch(std::uint64_t slice) {
  if (tables_.l2.find(slice) != nullptr) co_return result<void>{};
  co_return co_await tables_.l2.load(slice);
}

task<result<void>> reference_tree::relieve() {
  if (!tables_.l2.is_crowded() && !counts_.cache().is_crowded()) co_return result<void>{};
  co_return co_await passes_.flush();
}

task<result<void>> reference_tree::check(const l1_entries& l1, bool may_share) {
  const geometry& shape = tables_.shape;
  std::vector<std::uint64_t> named;
  for (const std::uint64_t raw : l1) {
    if ((raw & offset_mask) != 0) named.push_back(raw & offset_mask);
  }
  if (cluster_set(std::move(named)).has_duplicates()) co_return errc::corrupt_image;
  for (const std::uint64_t raw : l1) {
    const result<std::uint64_t> table = table_of(raw);
    if (!table) co_return table.error();
    if (*table == 0) continue;
    result<void> sound = co_await check_count(shape.cluster_of(*table), may_share ? 1 : 0);
    for (std::uint64_t at = 0; sound && at < shape.cluster_size(); at += shape.slice_size()) {
      sound = co_await check_slice(*table + at, may_share);
    }
    if (!sound) co_return sound;
  }
  co_return result<void>{};
}

task<result<void>> reference_tree::check_slice(std::uint64_t slice, bool may_share) {
  const geometry& shape = tables_.shape;
  const result<void> there = co_await fetch(slice);
  if (!there) co_return there;
  std::vector<std::uint64_t> single;
  std::vector<std::uint64_t> packed;
  const slice_entries entries(tables_.l2.find(slice), shape);
  for (std::uint64_t index = 0; index < entries.count(); ++index) {
    const l2_entry entry = entries[index];
    if (!tables_.is_sound(entry)) co_return errc::corrupt_image;
    append_clusters(entry.kind == entry_kind::compressed ? packed : single, entry, shape);
  }
  for (const std::uint64_t cluster : single) {
    const result<void> sound = co_await check_count(cluster, may_share ? 1 : 0);
    if (!sound) co_return sound;
  }
  for (const std::uint64_t cluster : packed) {
    // As many references as it counts may lead there from this tree alone.
    const result<std::uint64_t> count = co_await counts_.get(cluster);
    if (!count) co_return count.error();
    const result<void> sound = co_await check_count(cluster, may_share ? *count : 0);
    if (!sound) co_return sound;
  }
  co_return result<void>{};
}

task<result<void>> reference_tree::check_count(std::uint64_t cluster, std::uint64_t more) {
  const result<std::uint64_t> count = co_await counts_.get(cluster);
  if (!count) co_return count.error();
  if (*count == 0) co_return errc::corrupt_image;
  if (more > tables_.shape.highest_refcount() - *count) co_return errno_code(EOVERFLOW);
  co_return result<void>{};
}

task<result<void>> reference_tree::share(const l1_entries& l1) {
  const geometry& shape = tables_.shape;
  for (const std::uint64_t raw : l1) {
    const result<std::uint64_t> table = table_of(raw);
    if (!table) co_return table.error();
    if (*table == 0) continue;
    const std::vector<std::uint64_t> itself{shape.cluster_of(*table)};
    result<void> done = co_await add_references(itself);
    for (std::uint64_t at = 0; done && at < shape.cluster_size(); at += shape.slice_size()) {
      done = co_await relieve();
      if (done) done = co_await share_slice(*table + at);
    }
    if (!done) co_return done;
  }
  co_return result<void>{};
}

task<result<void>> reference_tree::share_slice(std::uint64_t slice) {
  const geometry& shape = tables_.shape;
  const result<void> there = co_await fetch(slice);
  if (!there) co_return there;
  std::vector<std::uint64_t> clusters;
  std::byte* changing = nullptr;
  const slice_entries entries(tables_.l2.find(slice), shape);
  std::vector<std::uint64_t> copied;
  for (std::uint64_t index = 0; index < entries.count(); ++index) {
    const l2_entry entry = entries[index];
    append_clusters(clusters, entry, shape);
    if (entry.copied) copied.push_back(index);
  }
  if (!copied.empty()) changing = tables_.l2.find_for_change(slice);
  for (const std::uint64_t index : copied) {
    flip_copied(changing, index, shape);
  }
  co_return co_await add_references(clusters);
}

task<result<void>> reference_tree::add_references(const std::vector<std::uint64_t>& clusters) {
  for (const std::uint64_t cluster : clusters) {
    const result<std::uint64_t> count = co_await counts_.get(cluster);
    if (!count) co_return count.error();
    if (*count == tables_.shape.highest_refcount()) co_return errno_code(EOVERFLOW);
    const result<void> raised = co_await counts_.set(cluster, *count + 1);
    if (!raised) co_return raised;
  }
  co_return result<void>{};
}

task<result<void>> reference_tree::release(const l1_entries& l1) {
  const geometry& shape = tables_.shape;
  for (const std::uint64_t raw : l1) {
    const result<std::uint64_t> table = table_of(raw);
    if (!table || *table == 0) continue;
    for (std::uint64_t at = 0; at < shape.cluster_size(); at += shape.slice_size()) {
      result<void> done = co_await relieve();
      if (done) done = co_await fetch(*table + at);
      if (!done) co_return done;
      std::vector<std::uint64_t> clusters;
      const slice_entries entries(tables_.l2.find(*table + at), shape);
      for (std::uint64_t index = 0; index < entries.count(); ++index) {
        const l2_entry entry = entries[index];
        if (tables_.is_sound(entry)) append_clusters(clusters, entry, shape);
      }
      done = co_await clusters_.release_now(clusters);
      if (!done) co_return done;
    }
    std::vector<std::uint64_t> itself{shape.cluster_of(*table)};
    const result<void> done = co_await clusters_.release_now(itself);
    if (!done) co_return done;
  }
  co_return result<void>{};
}

task<result<void>> reference_tree::refresh_copied() {
  const geometry& shape = tables_.shape;
  for (std::uint64_t index = 0; index < tables_.l1.size(); ++index) {
    const auto table = tables_.l2_table(index);
    if (!table || *table == 0) continue;
    const result<std::uint64_t> count = co_await counts_.get(shape.cluster_of(*table));
    if (!count) co_return count.error();
    const std::uint64_t raw = *table | (*count == 1 ? copied_flag : 0);
    if (raw != tables_.l1[index]) tables_.l1.set(index, raw);
    result<void> done;
    for (std::uint64_t at = 0; done && at < shape.cluster_size(); at += shape.slice_size()) {
      done = co_await relieve();
      if (done) done = co_await refresh_slice(*table + at);
    }
    if (!done) co_return done;
  }
  co_return result<void>{};
}

task<result<void>> reference_tree::refresh_slice(std::uint64_t slice) {
  const geometry& shape = tables_.shape;
  result<void> there = co_await fetch(slice);
  if (!there) co_return there;
  struct owned {
    std::uint64_t index;
    std::uint64_t cluster;
    bool copied;
  };
  std::vector<owned> all;
  const slice_entries entries(tables_.l2.find(slice), shape);
  for (std::uint64_t index = 0; index < entries.count(); ++index) {
    const l2_entry entry = entries[index];
    if (!may_be_copied(entry) || !tables_.is_sound(entry)) continue;
    all.push_back({index, shape.cluster_of(entry.host_offset), entry.copied});
  }
  std::vector<std::uint64_t> changed;
  for (const owned& each : all) {
    const result<std::uint64_t> count = co_await counts_.get(each.cluster);
    if (!count) co_return count.error();
    if ((*count == 1) != each.copied) changed.push_back(each.index);
  }
  if (changed.empty()) co_return result<void>{};
  there = co_await fetch(slice);
  if (!there) co_return there;
  std::byte* bytes = tables_.l2.find_for_change(slice);
  for (const std::uint64_t index : changed) {
    flip_copied(bytes, index, shape);
  }
  co_return result<void>{};
}

}  // namespace weir::qcow2
