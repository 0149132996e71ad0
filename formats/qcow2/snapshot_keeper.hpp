// Internal snapshots of one open image: list, create, apply, remove (images.md section 3).
//
// The order that keeps each of them whole over a power loss; "switch" is one write of a part of the header's first
// sector, durable before what follows:
//   create   a copy of the L1 table and a new snapshot table are written to space of their own; every count is
//            raised and every COPIED flag cleared; all durable; switch to the new snapshot table; the old one is free
//   remove   a snapshot table without it is written, durable; switch; everything it referred to counts one less;
//            COPIED is set again where a count came down to one
//   apply    a copy of the snapshot's L1 table is written; every count it leads to is raised; all durable; switch of
//            L1 table and virtual size; everything the old L1 table referred to counts one less
// Before a switch only counts are too high, and after it until the end as well: leaks, which a check gives back.
// Counts are checked against their width before the first is changed.
#pragma once

#include "engine/block/bitmap_store.hpp"
#include "engine/block/snapshot_store.hpp"
#include "formats/qcow2/image_tables.hpp"
#include "formats/qcow2/metadata_space.hpp"
#include "formats/qcow2/reference_tree.hpp"
#include "formats/qcow2/snapshot_table.hpp"
#include "formats/qcow2/writer.hpp"

#include <functional>
#include <string>
#include <vector>

namespace weir::qcow2 {

class snapshot_keeper final : public snapshot_store {
 public:
  /// `change_side` is null on a read-only image. `bitmaps` are the image's: with any, apply() is refused, since they
  /// would have to know what it changes. `remapped` is called when earlier answers about the mapping no longer
  /// hold.
  snapshot_keeper(image_tables& tables, writer* change_side, const bitmap_store& bitmaps,
                  std::function<void()> remapped);

  /// Reads the table; damage is remembered, not returned. To be called once, by who opens the image.
  task<result<void>> load();
  /// The image's tables become those of the snapshot. Precondition: read-only image.
  task<outcome<void>> show(std::string wanted);

  std::vector<snapshot_info> list() const override;
  const std::string& damage() const noexcept override { return damage_; }

 private:
  using l1_entries = reference_tree::l1_entries;

  task<outcome<void>> do_create(snapshot_info wanted) override;
  task<outcome<void>> do_apply(std::string id) override;
  task<outcome<void>> do_remove(std::string id) override;

  failure refuse(std::string_view why, error_code code) const;
  outcome<void> check_change() const;
  outcome<void> check_new(const snapshot_info& wanted) const;
  outcome<std::size_t> find_sound(std::string_view id) const;
  std::string next_id() const;
  snapshot_entry make_entry(const snapshot_info& wanted) const;

  task<result<l1_entries>> read_l1(const snapshot_entry& entry);
  task<result<byte_range>> place_l1(const l1_entries& entries);
  task<result<byte_range>> place_table(const std::vector<snapshot_entry>& entries);
  task<void> give_back(byte_range placed);
  void share_l1();
  task<result<void>> switch_table(std::vector<snapshot_entry> entries, byte_range placed);
  task<result<void>> switch_l1(byte_range placed, std::uint64_t virtual_size);
  task<outcome<void>> settle_around(task<outcome<void>> change);
  task<outcome<void>> create_held(snapshot_entry made);
  task<outcome<void>> remove_held(std::size_t index);
  task<outcome<void>> apply_held(std::size_t index);
  task<result<void>> adopt_l1(byte_range placed);

  image_tables& tables_;
  writer* writer_;
  const bitmap_store& bitmaps_;
  std::function<void()> remapped_;
  std::vector<snapshot_entry> entries_;
  byte_range table_;
  std::string damage_;
};

}  // namespace weir::qcow2
