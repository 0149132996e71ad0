// A qcow2 image with persistent bitmaps on a simulated disk, and what each of them must say.
//
// After a power loss a bitmap may be missing its last store, but never lie: it is inconsistent, or it says exactly what
// it said when it was stored, and then either nothing has changed since or it did not record.
#pragma once

#include "engine/block/bitmap_store.hpp"
#include "tests/support/qcow2_world.hpp"

#include <gtest/gtest.h>

#include <optional>
#include <string>
#include <vector>

namespace weir::test {

class bitmap_world {
 public:
  struct known {
    std::string name;
    std::uint64_t granularity = 0;
    bool enabled = false;
    std::vector<bool> bits = {};
    friend bool operator==(const known&, const known&) = default;
  };

  explicit bitmap_world(const qcow2_settings& settings);
  void open();

  /// False where the format has no bitmaps (version 2).
  bool has_bitmaps() { return base.target().bitmaps() != nullptr; }

  void step();

  /// A change of content, shown to the bitmaps.
  void change(std::uint64_t first, std::uint64_t count);

  /// Stores without closing, as a management command does.
  void store_now();
  void close();
  void expect_survival(std::uint64_t survival);

  qcow2_world base;

 private:
  bitmap_store& store() { return *base.target().bitmaps(); }

  void manage();
  void add();
  void merge(known& into);
  void set(known& into, byte_range range);
  void settle();
  known read(bitmap_store& from, const kept_bitmap& wanted);
  void expect_bitmaps(bitmap_store& found, const std::vector<known>& wanted);
  static bool has_names(const bitmap_store& found, const std::vector<known>& wanted);
  bool is_possible(const known& found) const;

  void expect_power_is_off(const std::string& what) { EXPECT_FALSE(base.power().on()) << what; }

  std::vector<known> now_;
  std::vector<known> stored_;
  std::optional<std::vector<known>> pending_;  // a store is under way
  bool changed_ = false;                       // content, since the last store
  int last_name_ = 0;
};

}  // namespace weir::test
