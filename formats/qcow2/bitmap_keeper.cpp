#include "formats/qcow2/bitmap_keeper.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/entry_table.hpp"
#include "formats/qcow2/table_readers.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <unordered_map>
#include <utility>

namespace weir::qcow2 {
namespace {

/// Granules that one cluster of bits covers.
std::uint64_t bits_per_cluster(const geometry& shape) noexcept {
  return shape.cluster_size() * 8;
}

}  // namespace

task<result<void>> bitmap_keeper::load() {
  const header& head = tables_.head;
  if ((head.autoclear & bitmaps_bit) == 0 || tables_.shape.version < 3) co_return result<void>{};
  outcome<std::optional<bitmap_directory>> read = co_await read_bitmap_directory(tables_.file, head);
  if (!read && read.error().code != errc::corrupt_image) co_return read.error().code;
  damaged_ = !read.has_value();
  if (damaged_ || !*read) co_return result<void>{};
  adopt_entries(std::move((*read)->entries));
  directory_ = (*read)->place.directory;
  std::vector<kept_bitmap> found;
  for (const bitmap_entry& entry : entries_) {
    const bool in_use = (entry.flags & bitmap_flag::in_use) != 0;
    const bool known_granularity = entry.granularity_bits <= highest_granularity_bits;
    found.push_back({.name = entry.name,
                     .granularity = known_granularity ? std::uint64_t{1} << entry.granularity_bits : 0,
                     .enabled = (entry.flags & bitmap_flag::automatic) != 0,
                     .inconsistent = in_use || !bitmap_fault(entry, limits()).empty(),
                     .in_use = in_use});
  }
  adopt(std::move(found));
  co_return result<void>{};
}

std::string bitmap_keeper::do_refuse(std::string_view name, std::uint64_t granularity) const {
  if (name.empty() || name.size() > longest_bitmap_name) return "has a name that is not 1 to 1023 bytes long";
  const bool possible = std::has_single_bit(granularity) &&
                        granularity >= std::uint64_t{1} << lowest_granularity_bits &&
                        granularity <= std::uint64_t{1} << highest_granularity_bits;
  if (!possible) return "has a granularity that is not a power of two from 512 bytes to 2 GiB";
  if (bitmaps().size() >= most_bitmaps) return "is one too many: 65535 is the most";
  return do_refuse_length(granularity, disk_size());
}

std::string bitmap_keeper::do_refuse_length(std::uint64_t granularity, std::uint64_t size) const {
  const auto bits = static_cast<unsigned>(std::countr_zero(granularity));
  const std::uint64_t clusters = bitmap_table_count(size, bits, tables_.shape);
  if (clusters > largest_bitmap_bytes >> tables_.shape.cluster_bits) {
    return "would take more than 512 MiB: choose a larger granularity";
  }
  return {};
}

void bitmap_keeper::adopt_entries(std::vector<bitmap_entry> entries) {
  entries_ = std::move(entries);
  by_name_.clear();
  for (std::size_t index = 0; index < entries_.size(); ++index) by_name_.emplace(entries_[index].name, index);
}

const bitmap_entry* bitmap_keeper::stored(std::string_view name) const noexcept {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

task<result<std::vector<std::uint64_t>>> bitmap_keeper::read_table(const bitmap_entry& entry) {
  entry_table table(entry.table_offset);
  const result<void> loaded = co_await table.load(tables_.file, entry.table_count);
  if (!loaded) co_return loaded.error();
  co_return table.entries();
}

task<outcome<dirty_bitmap>> bitmap_keeper::do_load(const kept_bitmap& wanted) {
  const std::string subject = location() + ": bitmap '" + wanted.name + "'";
  dirty_bitmap bits(disk_size(), wanted.granularity);
  const bitmap_entry* entry = stored(wanted.name);
  if (entry == nullptr) co_return bits;
  const result<std::vector<std::uint64_t>> table = co_await read_table(*entry);
  if (!table) co_return make_failure(table.error(), subject);
  for (std::size_t index = 0; index < table->size(); ++index) {
    const bitmap_table_entry part = decode_bitmap_table_entry((*table)[index], tables_.shape);
    const bool in_file = part.kind != bitmap_cluster::stored || part.host_offset < tables_.file.size();
    if (part.kind == bitmap_cluster::invalid || !in_file) {
      co_return make_failure(errc::corrupt_image, subject, "its table is damaged");
    }
    const result<void> loaded = co_await load_part(bits, index, part);
    if (!loaded) co_return make_failure(loaded.error(), subject);
  }
  co_return bits;
}

/// The bits of one cluster.
task<result<void>> bitmap_keeper::load_part(dirty_bitmap& bits, std::uint64_t index,
                                            bitmap_table_entry from) {
  if (from.kind == bitmap_cluster::clear) co_return result<void>{};
  std::vector<std::byte> bytes(static_cast<std::size_t>(tables_.shape.cluster_size()), std::byte{0xff});
  if (from.kind == bitmap_cluster::stored) {
    const result<void> got = co_await tables_.file.read(from.host_offset, bytes);
    if (!got) co_return got;
  }
  bits.assign_bits(index * bits_per_cluster(tables_.shape), bytes);
  co_return result<void>{};
}

task<result<void>> bitmap_keeper::do_mark(std::span<kept_bitmap> bitmaps, bool all) {
  std::unordered_map<std::string_view, kept_bitmap*> kept_by_name;
  for (kept_bitmap& each : bitmaps) kept_by_name.emplace(each.name, &each);
  const auto records = [&](const bitmap_entry& entry) {
    const auto kept = kept_by_name.find(entry.name);
    return all || (entry.flags & bitmap_flag::automatic) != 0 ||
           (kept != kept_by_name.end() && kept->second->enabled);
  };
  bool any = false;
  std::uint64_t at = directory_.offset;
  for (const bitmap_entry& entry : entries_) {
    if (records(entry) && (entry.flags & bitmap_flag::in_use) == 0) {
      std::array<std::byte, 4> flags{};
      store_big(flags.data(), entry.flags | bitmap_flag::in_use);
      const result<void> wrote = co_await tables_.file.write(at + bitmap_flags_at, flags);
      if (!wrote) co_return wrote;
      any = true;
    }
    at += bitmap_entry_length(entry);
  }
  if (!any) co_return result<void>{};
  const result<void> durable = co_await tables_.file.flush();
  if (!durable) co_return durable;
  for (bitmap_entry& entry : entries_) {
    if (records(entry)) entry.flags |= bitmap_flag::in_use;
    const auto kept = kept_by_name.find(entry.name);
    if (kept != kept_by_name.end()) kept->second->in_use = (entry.flags & bitmap_flag::in_use) != 0;
  }
  co_return durable;
}

}  // namespace weir::qcow2
