// A qcow2 image with internal snapshots on a simulated disk, and what each of them must read as.
#pragma once

#include "engine/block/snapshot_store.hpp"
#include "tests/support/qcow2_world.hpp"

#include <string>
#include <vector>

namespace weir::test {

class snapshot_world {
 public:
  explicit snapshot_world(const qcow2_settings& settings) : base(settings) {}

  struct kept {
    std::string name;
    std::vector<sector_oracle::tag> content;
    friend bool operator==(const kept&, const kept&) = default;
  };

  /// A change of the snapshots, drawn.
  void snapshot_step();
  void create();
  void remove(const kept& chosen);
  void apply(const kept& chosen);

  /// The snapshots on `disk` are those expected and read as expected.
  void expect_snapshots(simulated_disk& disk);

  void close() { static_cast<void>(base.close()); }

  /// After a power loss: snapshots as before or after the change under way; they can be removed, and what they took
  /// is given back.
  void expect_survival(std::uint64_t survival);

  std::size_t count() const { return snapshots_.size(); }

  qcow2_world base;

 private:
  static bool is_list(const std::vector<snapshot_info>& found, const std::vector<kept>& wanted);
  std::string id_of(const std::string& name);
  std::vector<sector_oracle::tag> now();
  void settle(const outcome<void>& done, const char* what);

  std::vector<kept> snapshots_;
  std::vector<kept> next_;
  int last_name_ = 0;
};

}  // namespace weir::test
