#include "formats/qcow2/snapshot_keeper.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/table_readers.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

namespace weir::qcow2 {
namespace {

// QEMU's room for a name and an ID, without the final NUL.
constexpr std::size_t longest_name = 255;

}  // namespace

snapshot_keeper::snapshot_keeper(image_tables& tables, writer* change_side, const bitmap_store& bitmaps,
                                 std::function<void()> remapped)
    : tables_(tables), writer_(change_side), bitmaps_(bitmaps), remapped_(std::move(remapped)) {}

task<result<void>> snapshot_keeper::load() {
  const header& head = tables_.head;
  if (head.snapshot_count == 0) co_return result<void>{};
  table_ = {head.snapshots_offset, tables_.shape.cluster_size()};
  outcome<snapshot_table> read = co_await read_snapshot_table(tables_.file, head);
  if (read) {
    entries_ = std::move(read->entries);
    table_.length = read->length;
  } else if (read.error().code == errc::corrupt_image) {
    damage_ = read.error().what;
  } else {
    co_return read.error().code;
  }
  const std::uint64_t clusters = tables_.shape.clusters_for(table_.length);
  tables_.metadata.snapshots = {table_.offset, clusters << tables_.shape.cluster_bits};
  co_return result<void>{};
}

task<outcome<void>> snapshot_keeper::show(std::string wanted) {
  const std::vector<snapshot_info> known = list();
  const outcome<snapshot_info> found = find_snapshot(known, wanted, tables_.file.location());
  if (!found && !damage_.empty()) co_return make_failure(errc::corrupt_image, damage_);
  if (!found) co_return found.error();
  const outcome<std::size_t> index = find_sound(found->id);
  if (!index) co_return index.error();
  const snapshot_entry& entry = entries_[*index];
  tables_.l1 = entry_table(entry.l1_offset);
  const result<void> loaded = co_await tables_.l1.load(tables_.file, entry.l1_count);
  if (!loaded) co_return make_failure(loaded.error(), tables_.file.location());
  // A disk that was smaller then is seen at its size of today; what it lacked is not allocated.
  tables_.l1.pad(tables_.head.l1_count);
  co_return outcome<void>{};
}

std::vector<snapshot_info> snapshot_keeper::list() const {
  std::vector<snapshot_info> made;
  made.reserve(entries_.size());
  for (const snapshot_entry& entry : entries_) {
    made.push_back({.id = entry.id,
                    .name = entry.name,
                    .date_s = entry.date_s,
                    .date_ns = entry.date_ns,
                    .vm_clock_ns = entry.vm_clock_ns,
                    .vm_state_bytes = entry.vm_state_bytes,
                    .disk_bytes = entry.disk_bytes.value_or(tables_.head.virtual_size),
                    .icount = entry.icount});
  }
  return made;
}

failure snapshot_keeper::refuse(std::string_view why, error_code code) const {
  return make_failure(code, tables_.file.location(), why);
}

outcome<void> snapshot_keeper::check_change() const {
  if (writer_ == nullptr) return make_failure(errc::read_only, tables_.file.location());
  if (!damage_.empty()) return refuse("the snapshot table is damaged: " + damage_, errc::corrupt_image);
  if (tables_.head.has(incompatible_bit::data_file)) {
    return refuse("an image with an external data file has no internal snapshots", errc::not_supported);
  }
  return outcome<void>{};
}

outcome<void> snapshot_keeper::check_new(const snapshot_info& wanted) const {
  if (tables_.shape.highest_refcount() == 1) {
    return refuse("refcount_bits=1 cannot count clusters that a snapshot shares", errc::not_supported);
  }
  if (entries_.size() >= most_snapshots_of_an_image) {
    return refuse("there are 65536 snapshots, which is the most", errc::not_supported);
  }
  if (wanted.name.empty() || wanted.name.size() > longest_name) {
    return refuse("a snapshot's name has 1 to 255 bytes", errc::not_supported);
  }
  if (std::ranges::find(entries_, wanted.name, &snapshot_entry::name) != entries_.end()) {
    return refuse("there is a snapshot '" + wanted.name + "' already", errc::not_supported);
  }
  return outcome<void>{};
}

outcome<std::size_t> snapshot_keeper::find_sound(std::string_view id) const {
  const auto found = std::ranges::find(entries_, id, &snapshot_entry::id);
  if (found == entries_.end())
    return refuse("there is no snapshot '" + std::string(id) + "'", errc::not_supported);
  const std::string fault = snapshot_fault(*found, tables_.shape, tables_.file.size());
  if (!fault.empty()) {
    return refuse("snapshot '" + found->name + "' cannot be used: " + fault, errc::corrupt_image);
  }
  return static_cast<std::size_t>(found - entries_.begin());
}

/// One above the highest number in use, as QEMU counts.
std::string snapshot_keeper::next_id() const {
  std::uint64_t highest = 0;
  for (const snapshot_entry& entry : entries_) {
    std::uint64_t number = 0;
    const char* end = entry.id.data() + entry.id.size();
    const auto parsed = std::from_chars(entry.id.data(), end, number);
    if (parsed.ec == std::errc{} && number < std::uint64_t{1} << 62) highest = std::max(highest, number);
  }
  return std::to_string(highest + 1);
}

snapshot_entry snapshot_keeper::make_entry(const snapshot_info& wanted) const {
  snapshot_entry made;
  made.l1_count = static_cast<std::uint32_t>(tables_.l1.size());
  made.id = next_id();
  made.name = wanted.name;
  made.date_s = wanted.date_s;
  made.date_ns = wanted.date_ns;
  made.vm_clock_ns = wanted.vm_clock_ns;
  made.disk_bytes = tables_.head.virtual_size;
  made.icount = wanted.icount;
  return made;
}

/// A change that wants nothing dirty before it, nobody allocating during it, and itself on disk after it.
task<outcome<void>> snapshot_keeper::settle_around(task<outcome<void>> change) {
  const std::string& location = tables_.file.location();
  result<void> flushed = co_await writer_->flush_all();
  if (!flushed) co_return make_failure(flushed.error(), location);
  async_lock::guard lock = co_await writer_->lock_allocation();
  outcome<void> done = co_await std::move(change);
  lock.release();
  if (!done) co_return done;
  // It has happened, durably; what is left gives space back, and stays for the next flush if this one fails.
  flushed = co_await writer_->flush_all();
  static_cast<void>(flushed);
  co_return done;
}

task<outcome<void>> snapshot_keeper::do_create(snapshot_info wanted) {
  outcome<void> done = check_change();
  if (done) done = check_new(wanted);
  if (!done) co_return done;
  co_return co_await settle_around(create_held(make_entry(wanted)));
}

task<outcome<void>> snapshot_keeper::do_remove(std::string id) {
  outcome<void> done = check_change();
  if (!done) co_return done;
  const outcome<std::size_t> index = find_sound(id);
  if (!index) co_return index.error();
  co_return co_await settle_around(remove_held(*index));
}

task<outcome<void>> snapshot_keeper::do_apply(std::string id) {
  outcome<void> done = check_change();
  if (!done) co_return done;
  if (!bitmaps_.bitmaps().empty()) {
    co_return refuse("no snapshot can be applied while there are bitmaps: remove them first",
                     errc::not_supported);
  }
  const outcome<std::size_t> index = find_sound(id);
  if (!index) co_return index.error();
  co_return co_await settle_around(apply_held(*index));
}

}  // namespace weir::qcow2
