// What of an image's structures is not on the way from guest offsets to clusters: snapshots, bitmaps, the LUKS
// header.
#include "engine/base/endian.hpp"
#include "formats/qcow2/reference_survey.hpp"
#include "formats/qcow2/table_pieces.hpp"
#include "formats/qcow2/table_readers.hpp"

#include <array>

namespace weir::qcow2 {
namespace {

constexpr std::uint32_t luks_extension = 0x0537'be77;
constexpr std::uint32_t luks_method = 2;
constexpr std::uint64_t largest_luks_header = 64 * MiB;

std::string snapshot_text(const snapshot_entry& snapshot) {
  return "snapshot '" + snapshot.name + "' (id " + snapshot.id + ")";
}

}  // namespace

task<result<void>> reference_survey::read_snapshots() {
  if (head_.snapshot_count == 0) co_return result<void>{};
  const outcome<snapshot_table> table = co_await read_snapshot_table(file_, head_);
  if (!table) {
    log_.corruption(table.error().what);
    complete = false;
    co_return result<void>{};
  }
  claim({head_.snapshots_offset, table->length}, "the snapshot table");
  if (rules_.has_data_file) log_.corruption("an image with a data file of its own has snapshots");
  for (const snapshot_entry& snapshot : table->entries) {
    const std::string fault = snapshot_fault(snapshot, shape_, file_.size());
    if (!fault.empty()) {
      log_.corruption(snapshot_text(snapshot) + " is lost: " + fault);
      complete = false;
      continue;
    }
    const l1_place place{snapshot.l1_offset, snapshot.l1_count, false};
    const result<void> done = co_await read_l1(place, "the L1 table of " + snapshot_text(snapshot));
    if (!done) co_return done;
  }
  co_return result<void>{};
}

/// Bitmaps that the autoclear bit does not vouch for mean nothing; what they took is a leak.
task<result<void>> reference_survey::read_bitmaps() {
  if ((head_.autoclear & bitmaps_bit) == 0) co_return result<void>{};
  const outcome<std::optional<bitmap_directory>> directory = co_await read_bitmap_directory(file_, head_);
  if (!directory) {
    log_.corruption("the bitmaps are lost: " + directory.error().what);
    complete = false;
    co_return result<void>{};
  }
  if (!*directory) co_return result<void>{};
  claim((*directory)->place.directory, "the bitmap directory");
  for (const bitmap_entry& bitmap : (*directory)->entries) {
    const std::string owner = "the table of bitmap '" + bitmap.name + "'";
    const byte_range table{bitmap.table_offset, std::uint64_t{bitmap.table_count} * entry_bytes};
    const bool too_big = std::uint64_t{bitmap.table_count} << shape_.cluster_bits > largest_bitmap_bytes;
    if (too_big || !is_aligned(table.offset, shape_.cluster_size()) ||
        !fits(table.offset, table.length, file_.size())) {
      log_.corruption(owner + " at " + hexadecimal(table.offset) + " lies nowhere valid; its bits are lost");
      complete = false;
      continue;
    }
    const result<void> done = co_await read_bitmap_table(table, owner);
    if (!done) co_return done;
  }
  co_return result<void>{};
}

task<result<void>> reference_survey::read_bitmap_table(byte_range table, const std::string& owner) {
  const std::string cluster_owner = "a cluster of " + owner;
  if (!claim(table, owner)) co_return result<void>{};
  const auto judge = [&](std::uint64_t raw, std::uint64_t) {
    const bitmap_table_entry entry = decode_bitmap_table_entry(raw, shape_);
    if (entry.kind == bitmap_cluster::invalid) {
      log_.corruption("an entry of " + owner + " (" + hexadecimal(raw) + ") is damaged; its bits are lost");
      complete = false;
    } else if (entry.kind == bitmap_cluster::stored) {
      claim({entry.host_offset, shape_.cluster_size()}, cluster_owner);
    }
  };
  co_return co_await for_each_entry(file_, table, judge);
}

task<result<void>> reference_survey::read_encryption_header() {
  const extension* const found = head_.find(luks_extension);
  if (head_.crypt_method != luks_method || found == nullptr) co_return result<void>{};
  std::array<std::byte, 16> place{};
  if (found->data.length < place.size()) {
    log_.corruption("the header extension of the LUKS header is too short");
    complete = false;
    co_return result<void>{};
  }
  const result<void> got = co_await file_.read(found->data.offset, place);
  if (!got) co_return got;
  const auto offset = load_big<std::uint64_t>(place.data());
  const auto length = load_big<std::uint64_t>(place.data() + 8);
  if (length > largest_luks_header || !is_aligned(offset, shape_.cluster_size()) ||
      !fits(offset, length, file_.size())) {
    log_.corruption("the LUKS header at " + hexadecimal(offset) + " lies nowhere valid");
    complete = false;
    co_return result<void>{};
  }
  claim({offset, length}, "the LUKS header");
  co_return result<void>{};
}

}  // namespace weir::qcow2
