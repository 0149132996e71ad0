#include "formats/qcow2/entry_mender.hpp"

#include "engine/base/endian.hpp"
#include "formats/qcow2/l2_entry.hpp"
#include "formats/qcow2/table_pieces.hpp"

namespace weir::qcow2 {

task<result<void>> entry_mender::run(step what) {
  const bool with_snapshots = what == step::mend && survey_.inactive_faults > 0;
  wrote_ = false;
  for (const l1_place& place : survey_.l1_tables) {
    if (!place.active && !with_snapshots) continue;
    const result<void> done = co_await run_l1(place, what);
    if (!done) co_return done;
  }
  for (const l2_use& use : survey_.l2_tables) {
    if (use.active == 0 && !with_snapshots) continue;
    const result<void> done = co_await run_l2(use, what);
    if (!done) co_return done;
  }
  if (!wrote_) co_return result<void>{};
  co_return co_await survey_.file().flush();
}

task<result<void>> entry_mender::settle(bool changed, std::uint64_t offset,
                                        std::span<const std::byte> bytes) {
  if (!changed) co_return result<void>{};
  wrote_ = true;
  co_return co_await survey_.file().write(offset, bytes);
}

task<result<void>> entry_mender::run_l1(const l1_place& place, step what) {
  table_pieces pieces(survey_.file(), {place.offset, place.count * entry_bytes});
  while (true) {
    const auto piece = co_await pieces.next();
    if (!piece) co_return piece.error();
    if (piece->bytes.empty()) co_return result<void>{};
    const std::uint64_t index = (piece->offset - place.offset) / entry_bytes;
    const bool changed = mend_l1_entries(piece->bytes, index, place.active, what);
    const result<void> settled = co_await settle(changed, piece->offset, piece->bytes);
    if (!settled) co_return settled;
  }
}

task<result<void>> entry_mender::run_l2(const l2_use& use, step what) {
  table_pieces pieces(survey_.file(), {use.offset, rules_.cluster_size});
  while (true) {
    const auto piece = co_await pieces.next();
    // The survey has told the log already.
    if (!piece && what == step::look) co_return result<void>{};
    if (!piece) co_return piece.error();
    if (piece->bytes.empty()) co_return result<void>{};
    const std::uint64_t index = (piece->offset - use.offset) / rules_.entry_width();
    const bool changed = mend_l2_entries(piece->bytes, index, use, what);
    const result<void> settled = co_await settle(changed, piece->offset, piece->bytes);
    if (!settled) co_return settled;
  }
}

std::uint64_t entry_mender::with_copied(std::uint64_t word, bool wanted, const std::string& name, step now) {
  if (now == step::mark) return wanted ? word | copied_flag : word;
  survey_.log().corruption(name + (wanted ? " is not marked COPIED, but its cluster counts one"
                                          : " is marked COPIED, but its cluster does not count one"));
  if (!wanted) ++shared_;
  if (now == step::look) return word;
  if (wanted) ++missing_;
  return word & ~copied_flag;
}

bool entry_mender::mend_l1_entries(std::span<std::byte> entries, std::uint64_t index, bool active,
                                   step what) {
  bool changed = false;
  for (std::size_t at = 0; at + entry_bytes <= entries.size(); at += entry_bytes, ++index) {
    const auto raw = load_big<std::uint64_t>(entries.data() + at);
    if (raw == 0) continue;
    const examined_l1_entry entry = examine_l1_entry(raw, rules_);
    std::uint64_t word = entry.is_repairable && what == step::mend ? entry.repaired : raw;
    if (active && entry.table != 0) {
      const bool wanted = survey_.counts.is_stored_once(entry.table >> rules_.cluster_bits);
      if (wanted != ((word & copied_flag) != 0)) {
        const std::string name = "entry " + std::to_string(index) + " of the active L1 table";
        word = with_copied(word, wanted, name, what);
      }
    }
    if (word == raw) continue;
    store_big(entries.data() + at, word);
    changed = true;
  }
  return changed;
}

bool entry_mender::mend_l2_entries(std::span<std::byte> entries, std::uint64_t index, const l2_use& use,
                                   step what) {
  bool changed = false;
  for (std::size_t at = 0; at + rules_.entry_width() <= entries.size(); at += rules_.entry_width(), ++index) {
    const entry_words stored = load_words(entries.data() + at, rules_);
    if (stored == entry_words{}) continue;
    const std::uint64_t guest_offset = use.guest_offset + index * rules_.cluster_size;
    const examined_entry entry = examine_l2_entry(stored, guest_offset, rules_);
    entry_words words = entry.is_repairable && what == step::mend ? entry.repaired : stored;
    if (use.active > 0 && entry.wants_copied) {
      const std::uint64_t cluster = entry.host.offset >> rules_.cluster_bits;
      const bool wanted = rules_.has_data_file || survey_.counts.is_stored_once(cluster);
      if (wanted != entry.is_copied) {
        const std::string name = "entry " + std::to_string(index) + " of the L2 table at " +
                                 hexadecimal(use.offset) + " (" +
                                 guest_text(guest_offset, rules_.cluster_size) + ")";
        words.word = with_copied(words.word, wanted, name, what);
      }
    }
    if (words == stored) continue;
    store_words(entries.data() + at, words, rules_);
    changed = true;
  }
  return changed;
}

}  // namespace weir::qcow2
