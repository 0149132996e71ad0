#include "formats/qcow2/reference_survey.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/l2_entry.hpp"
#include "formats/qcow2/table_pieces.hpp"

#include <algorithm>
#include <tuple>
#include <utility>

namespace weir::qcow2 {
namespace {

constexpr std::size_t fewest_unsorted_uses = 65536;

std::string at_text(std::uint64_t offset) {
  return " at " + hexadecimal(offset);
}

}  // namespace

std::string guest_text(std::uint64_t offset, std::uint64_t length) {
  return "guest " + hexadecimal(offset) + "-" + hexadecimal(offset + length);
}

reference_survey::reference_survey(storage& file, const header& head, check_log& log)
    : file_(file), head_(head), log_(log), shape_(head.shape), rules_(head, file.size()) {}

task<outcome<void>> reference_survey::run() {
  claim({0, shape_.cluster_size()}, "the header");
  const l1_place active{head_.l1_offset, head_.l1_count, true};
  result<void> done = co_await read_l1(active, "the active L1 table");
  if (done) done = co_await read_snapshots();
  if (done) done = co_await read_encryption_header();
  if (done) done = co_await read_bitmaps();
  if (done) claim_l2_tables();
  if (done) done = co_await count_tables();
  if (!done) co_return make_failure(done.error(), file_.location());
  if (counts.is_full()) {
    co_return make_failure(errc::unsupported_feature, file_.location(),
                           "references more clusters than can be checked in memory");
  }
  co_return outcome<void>{};
}

// Metadata

/// Metadata of which there is one reference; it shares its clusters with nothing.
bool reference_survey::claim(byte_range host, const std::string& what) {
  if (host.empty()) return true;
  const std::uint64_t first = shape_.cluster_of(host.offset);
  const std::uint64_t end = first + shape_.clusters_for(host.length);
  if (end > rules_.file_clusters) {
    log_.corruption(what + at_text(host.offset) + " ends past the end of the file");
    complete = false;
    return false;
  }
  bool shared = false;
  for (std::uint64_t cluster = first; cluster < end; ++cluster) {
    shared = shared || counts.count(cluster) > 0;
    counts.add(cluster);
    counts.set_metadata(cluster, true);
  }
  if (!shared) return true;
  log_.corruption(what + at_text(host.offset) + " overlaps other metadata; this cannot be repaired");
  complete = false;
  return false;
}

bool reference_survey::claim_counts(byte_range host) {
  const std::uint64_t first = shape_.cluster_of(host.offset);
  const std::uint64_t end = first + shape_.clusters_for(host.length);
  if (host.empty() || end > rules_.file_clusters) return false;
  bool alone = true;
  for (std::uint64_t cluster = first; cluster < end; ++cluster) {
    alone = alone && counts.count(cluster) == 0;
    counts.add(cluster);
  }
  return alone;
}

void reference_survey::drop_counts(byte_range host) {
  const std::uint64_t first = shape_.cluster_of(host.offset);
  for (std::uint64_t index = 0; index < shape_.clusters_for(host.length); ++index)
    counts.remove(first + index);
}

// L1 tables

task<result<void>> reference_survey::read_l1(l1_place place, std::string owner) {
  if (place.count == 0) co_return result<void>{};
  const byte_range table{place.offset, place.count * entry_bytes};
  const bool alone = claim(table, owner);
  // One that overlaps another would have its entries followed twice.
  if (!alone && !place.active) co_return result<void>{};
  l1_tables.push_back(place);
  const auto note = [&](std::uint64_t raw, std::uint64_t index) { note_l1_entry(raw, index, place, owner); };
  const result<void> read = co_await for_each_entry(file_, table, note);
  if (!read) co_return read.error();
  // Merging what has doubled keeps the work in proportion to the entries.
  if (l2_tables.size() > 2 * sorted_uses_ + fewest_unsorted_uses) merge_uses();
  co_return result<void>{};
}

void reference_survey::note_l1_entry(std::uint64_t raw, std::uint64_t index, const l1_place& place,
                                     const std::string& owner) {
  const examined_l1_entry entry = examine_l1_entry(raw, rules_);
  const std::uint64_t guest_offset = index * rules_.table_span();
  if (!entry.fault.empty()) {
    std::string line = "entry " + std::to_string(index) + " of " + owner + " (" + hexadecimal(raw) + ", " +
                       guest_text(guest_offset, rules_.table_span()) + ") ";
    line.append(entry.fault);
    if (!entry.is_repairable) line += "; what it held is lost";
    log_.corruption(line);
    ++entry_faults;
    complete = complete && entry.is_repairable;
    if (entry.is_repairable && !place.active) ++inactive_faults;
  }
  if (entry.table == 0) return;
  l2_tables.push_back({entry.table, guest_offset, place.active ? 1U : 0U, place.active ? 0U : 1U});
}

/// One entry for each table; what the active L1 table says of it comes first.
void reference_survey::merge_uses() {
  const auto rank = [](const l2_use& use) {
    return std::tuple(use.offset, use.active == 0, use.guest_offset);
  };
  std::ranges::sort(l2_tables, {}, rank);
  std::size_t kept = 0;
  for (const l2_use use : l2_tables) {
    if (kept > 0 && l2_tables[kept - 1].offset == use.offset) {
      l2_tables[kept - 1].active += use.active;
      l2_tables[kept - 1].inactive += use.inactive;
    } else {
      l2_tables[kept++] = use;
    }
  }
  l2_tables.resize(kept);
  sorted_uses_ = kept;
}

// L2 tables

/// Those that lie on other metadata are not followed: what stands there is no table.
void reference_survey::claim_l2_tables() {
  merge_uses();
  const auto misplaced = [this](const l2_use& use) {
    const std::uint64_t cluster = shape_.cluster_of(use.offset);
    const bool taken = counts.count(cluster) > 0;
    counts.add(cluster, std::uint64_t{use.active} + use.inactive);
    counts.set_metadata(cluster, true);
    if (!taken) return false;
    log_.corruption("the L2 table" + at_text(use.offset) + " lies on other metadata; " +
                    guest_text(use.guest_offset, rules_.table_span()) + " is lost");
    complete = false;
    return true;
  };
  std::erase_if(l2_tables, misplaced);
}

task<result<void>> reference_survey::count_tables() {
  for (const l2_use& use : l2_tables) {
    const result<void> counted = co_await count_table(use);
    if (counts.is_full()) co_return result<void>{};
    if (counted) continue;
    log_.trouble("the L2 table" + at_text(use.offset) + " (" +
                 guest_text(use.guest_offset, rules_.table_span()) +
                 ") cannot be read: " + counted.error().message());
    complete = false;
  }
  co_return result<void>{};
}

task<result<void>> reference_survey::count_table(const l2_use& use) {
  table_pieces pieces(file_, {use.offset, shape_.cluster_size()});
  const std::uint64_t width = rules_.entry_width();
  std::uint64_t behind_last = 0;
  while (true) {
    const auto piece = co_await pieces.next();
    if (!piece) co_return piece.error();
    if (piece->bytes.empty()) co_return result<void>{};
    for (std::size_t at = 0; at + width <= piece->bytes.size(); at += width) {
      const entry_words words = load_words(piece->bytes.data() + at, rules_);
      if (words == entry_words{}) continue;
      const std::uint64_t index = (piece->offset + at - use.offset) / width;
      const examined_entry entry =
          examine_l2_entry(words, use.guest_offset + index * shape_.cluster_size(), rules_);
      count_entry(entry, words, index, use);
      if (use.active > 0) note_placement(entry, words, behind_last, use.active);
    }
  }
}

void reference_survey::count_entry(const examined_entry& entry, const entry_words& words, std::uint64_t index,
                                   const l2_use& use) {
  std::string_view fault = entry.fault;
  bool lost = entry.loses_data;
  if (!entry.host.empty()) {
    const std::uint64_t last = shape_.cluster_of(entry.host.end() - 1);
    for (std::uint64_t cluster = shape_.cluster_of(entry.host.offset); cluster <= last; ++cluster) {
      counts.add(cluster, std::uint64_t{use.active} + use.inactive);
      if (!counts.is_metadata(cluster)) continue;
      fault = "names a cluster of metadata";
      lost = true;
    }
  }
  if (fault.empty()) return;
  const std::uint64_t guest_offset = use.guest_offset + index * shape_.cluster_size();
  std::string line = "entry " + std::to_string(index) + " of the L2 table" + at_text(use.offset) + " (" +
                     hexadecimal(words.word) + ", " + (use.active > 0 ? "" : "a snapshot's ") +
                     guest_text(guest_offset, shape_.cluster_size()) + ") ";
  line.append(fault);
  if (lost) line += "; what it held is lost";
  log_.corruption(line);
  ++entry_faults;
  complete = complete && !lost;
  if (entry.is_repairable && use.active == 0) ++inactive_faults;
}

/// qemu-img's figures: a cluster is fragmented if it does not lie behind the one before it in the same table.
void reference_survey::note_placement(const examined_entry& entry, const entry_words& words,
                                      std::uint64_t& behind_last, std::uint64_t times) {
  if (entry.is_compressed) {
    log_.report.allocated_clusters += times;
    log_.report.compressed_clusters += times;
    log_.report.fragmented_clusters += times;
    return;
  }
  if (!entry.wants_copied) return;
  const std::uint64_t offset = words.word & offset_mask;
  log_.report.allocated_clusters += times;
  if (behind_last != 0 && offset != behind_last) log_.report.fragmented_clusters += times;
  behind_last = offset + shape_.cluster_size();
}

}  // namespace weir::qcow2
