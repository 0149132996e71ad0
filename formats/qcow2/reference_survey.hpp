// Counts every reference to a host cluster that an image's own structures make: header, L1 and L2 tables of the
// active state and of all snapshots, data and compressed clusters, the snapshot table, bitmaps, the LUKS header.
// What the refcounts themselves take is added by stored_counts.hpp.
//
// Each L2 table is read once, however many L1 entries name it: what it names counts as often. So snapshots that
// share tables cost nothing. Other tables are read only where nothing else lies: so the work is in proportion to the
// file, and a small hostile one cannot ask for much.
//
// Faults go to the log. Where a fault may hide references (a table that cannot be found or read), the survey is
// not complete, and a count that seems too high must not be lowered.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/task.hpp"
#include "engine/storage/storage.hpp"
#include "formats/check_log.hpp"
#include "formats/qcow2/entry_rules.hpp"
#include "formats/qcow2/header.hpp"
#include "formats/qcow2/reference_counts.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace weir::qcow2 {

/// An L2 table and who names it.
struct l2_use {
  std::uint64_t offset = 0;
  std::uint64_t guest_offset = 0;  ///< of its first entry, for the first L1 entry that names it
  std::uint32_t active = 0;        ///< entries of the active L1 table that name it
  std::uint32_t inactive = 0;      ///< of all snapshots' L1 tables
};

struct l1_place {
  std::uint64_t offset = 0;
  std::uint64_t count = 0;
  bool active = false;
};

class reference_survey {
 public:
  /// All outlive the survey.
  reference_survey(storage& file, const header& head, check_log& log);

  /// Failures: too many references to hold; an I/O error where nothing can go on.
  task<outcome<void>> run();

  reference_counts counts;
  std::vector<l1_place> l1_tables;  ///< those that could be read, active first
  std::vector<l2_use> l2_tables;    ///< by offset
  bool complete = true;
  std::uint64_t entry_faults = 0;     ///< of L1 and L2 entries
  std::uint64_t inactive_faults = 0;  ///< those of them that only snapshots see and that can be repaired

  /// Counts a refcount table or block: false if it reaches past the end of the file or anything lies there already.
  bool claim_counts(byte_range host);
  /// Takes back what claim_counts added.
  void drop_counts(byte_range host);

  const entry_rules& rules() const noexcept { return rules_; }
  storage& file() noexcept { return file_; }
  const header& head() const noexcept { return head_; }
  check_log& log() noexcept { return log_; }

 private:
  /// False if it overlaps other metadata or ends past the file: whoever it belongs to is told, and nothing in it may
  /// be followed, or a small file could name one table again and again.
  bool claim(byte_range host, const std::string& what);

  task<result<void>> read_l1(l1_place place, std::string owner);
  void note_l1_entry(std::uint64_t raw, std::uint64_t index, const l1_place& place, const std::string& owner);
  void merge_uses();
  void claim_l2_tables();
  task<result<void>> count_tables();
  task<result<void>> count_table(const l2_use& use);
  void count_entry(const examined_entry& entry, const entry_words& words, std::uint64_t index,
                   const l2_use& use);
  void note_placement(const examined_entry& entry, const entry_words& words, std::uint64_t& behind_last,
                      std::uint64_t times);
  task<result<void>> read_snapshots();
  task<result<void>> read_bitmaps();
  task<result<void>> read_bitmap_table(byte_range table, const std::string& owner);
  task<result<void>> read_encryption_header();

  storage& file_;
  const header& head_;
  check_log& log_;
  const geometry& shape_;
  entry_rules rules_;
  std::size_t sorted_uses_ = 0;
};

/// "guest 0x10000-0x20000".
std::string guest_text(std::uint64_t offset, std::uint64_t length);

}  // namespace weir::qcow2
