#include "formats/qcow2/entry_rules.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/l2_entry.hpp"

namespace weir::qcow2 {
namespace {

constexpr std::uint64_t reserved_bits = ~(offset_mask | copied_flag | compressed_flag | zero_flag);
constexpr std::uint64_t allocated_bits = 0xffff'ffff;
constexpr std::uint64_t sector = 512;
constexpr std::string_view past_the_end = "names a place past the end of the file";

examined_entry& blame(examined_entry& entry, std::string_view fault, bool repairable) {
  // What cannot be put right decides.
  if (entry.fault.empty() || (entry.is_repairable && !repairable)) {
    entry.fault = fault;
    entry.is_repairable = repairable;
  }
  return entry;
}

examined_entry examine_compressed(const entry_words& words, const entry_rules& rules) noexcept {
  examined_entry entry;
  entry.repaired = words;
  entry.is_compressed = true;
  const unsigned offset_bits = 62 - (rules.cluster_bits - 8);
  const std::uint64_t offset = words.word & ((std::uint64_t{1} << offset_bits) - 1);
  const std::uint64_t more = (words.word & ~(compressed_flag | copied_flag)) >> offset_bits;
  const std::uint64_t end = align_down(offset, sector) + (more + 1) * sector;
  if ((words.word & copied_flag) != 0) {
    blame(entry, "is compressed and marked COPIED", true);
    entry.repaired.word &= ~copied_flag;
  }
  if (words.bitmap != 0) blame(entry, "is compressed and has subclusters", false);
  if (rules.has_data_file) {
    blame(entry, "is compressed although the data lies in a file of its own", false).loses_data = true;
    return entry;
  }
  if ((end - 1) >> rules.cluster_bits >= rules.file_clusters) {
    blame(entry, past_the_end, false).loses_data = true;
    return entry;
  }
  entry.host = range_between(offset, end);
  return entry;
}

/// Nothing of a cluster like this is read from its host cluster.
bool holds_no_data(const entry_words& words, const entry_rules& rules) noexcept {
  return rules.has_subclusters ? (words.bitmap & allocated_bits) == 0 : (words.word & zero_flag) != 0;
}

/// The entry names no place that can be. It can do without one if nothing is read from there.
examined_entry blame_place(examined_entry entry, const entry_words& words, std::string_view fault,
                           const entry_rules& rules) noexcept {
  const bool dispensable = holds_no_data(words, rules);
  blame(entry, fault, dispensable).loses_data |= !dispensable;
  entry.repaired.word = rules.has_subclusters ? 0 : zero_flag;
  return entry;
}

void clear_reserved(examined_entry& entry, const entry_rules& rules) noexcept {
  const std::uint64_t reserved = rules.has_subclusters ? reserved_bits | zero_flag : reserved_bits;
  if ((entry.repaired.word & reserved) == 0) return;
  blame(entry, "has reserved bits set", true);
  entry.repaired.word &= ~reserved;
}

examined_entry& examine_without_cluster(examined_entry& entry) noexcept {
  if ((entry.repaired.bitmap & allocated_bits) != 0) {
    return blame(entry, "marks subclusters as allocated without a cluster", false);
  }
  if ((entry.repaired.word & copied_flag) != 0) {
    blame(entry, "is marked COPIED without a cluster", true);
    entry.repaired.word &= ~copied_flag;
  }
  return entry;
}

}  // namespace

entry_words load_words(const std::byte* from, const entry_rules& rules) noexcept {
  return {load_big<std::uint64_t>(from), rules.has_subclusters ? load_big<std::uint64_t>(from + 8) : 0};
}

void store_words(std::byte* to, const entry_words& words, const entry_rules& rules) noexcept {
  store_big(to, words.word);
  if (rules.has_subclusters) store_big(to + 8, words.bitmap);
}

examined_entry examine_l2_entry(const entry_words& words, std::uint64_t guest_offset,
                                const entry_rules& rules) noexcept {
  if (words == entry_words{}) return {};
  if ((words.word & compressed_flag) != 0) return examine_compressed(words, rules);
  examined_entry entry;
  entry.repaired = words;
  clear_reserved(entry, rules);
  const std::uint64_t offset = words.word & offset_mask;
  if (!rules.has_subclusters && rules.version < 3 && (words.word & zero_flag) != 0) {
    blame(entry, "has the zero flag, which version 2 does not know", false).loses_data = true;
  }
  if ((words.bitmap & words.bitmap >> 32 & allocated_bits) != 0) {
    blame(entry, "marks subclusters as both allocated and zero", false).loses_data = true;
  }
  const bool in_data_file = rules.has_data_file && (words.word & copied_flag) != 0;
  if (offset == 0 && !in_data_file) return examine_without_cluster(entry);
  if (!is_aligned(offset, rules.cluster_size)) {
    return blame_place(entry, words, "names a place that is no cluster boundary", rules);
  }
  if (!rules.has_data_file && offset >> rules.cluster_bits >= rules.file_clusters) {
    return blame_place(entry, words, past_the_end, rules);
  }
  entry.wants_copied = true;
  entry.is_copied = (words.word & copied_flag) != 0;
  if (rules.has_data_file) {
    if (offset != guest_offset) blame(entry, "names another place of the data file", false).loses_data = true;
    return entry;
  }
  entry.host = {offset, rules.cluster_size};
  return entry;
}

examined_l1_entry examine_l1_entry(std::uint64_t raw, const entry_rules& rules) noexcept {
  examined_l1_entry entry{.fault = {}, .is_repairable = false, .repaired = raw, .table = raw & offset_mask};
  if (!is_aligned(entry.table, rules.cluster_size)) {
    entry.fault = "names a place that is no cluster boundary";
    entry.table = 0;
    return entry;
  }
  if (entry.table >> rules.cluster_bits >= rules.file_clusters) {
    entry.fault = past_the_end;
    entry.table = 0;
    return entry;
  }
  entry.repaired = raw & (offset_mask | copied_flag);
  if (entry.table == 0) entry.repaired = 0;
  if (entry.repaired == raw) return entry;
  entry.fault = entry.table == 0 ? "has flags but no table" : "has reserved bits set";
  entry.is_repairable = true;
  return entry;
}

}  // namespace weir::qcow2
