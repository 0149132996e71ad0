#include "tests/support/snapshot_world.hpp"

#include "tests/support/qcow2_checker.hpp"

#include <algorithm>
#include <cerrno>
#include <utility>

namespace weir::test {

void snapshot_world::snapshot_step() {
  const std::uint64_t kind = base.draw(5);
  if (snapshots_.empty() || kind < 2) return create();
  const kept chosen = snapshots_[base.draw(snapshots_.size())];
  if (kind == 2) return apply(chosen);
  remove(chosen);
}

void snapshot_world::create() {
  snapshot_info wanted;
  wanted.name = "snapshot " + std::to_string(++last_name_);
  if (base.draw(4) == 0) wanted.name.resize(255, 'x');
  kept made{wanted.name, now()};
  next_ = snapshots_;
  next_.push_back(std::move(made));
  const outcome<void> done = run(base.io(), base.target().snapshots()->create(wanted));
  // Everything before the snapshot is durable with it.
  if (done && base.power().on()) base.oracle().settle();
  settle(done, "create");
}

void snapshot_world::remove(const kept& chosen) {
  next_ = snapshots_;
  std::erase(next_, chosen);
  settle(run(base.io(), base.target().snapshots()->remove(id_of(chosen.name))), "remove");
}

void snapshot_world::apply(const kept& chosen) {
  next_ = snapshots_;
  if (!base.power().on()) return;
  for (std::size_t sector = 0; sector < chosen.content.size(); ++sector) {
    base.oracle().may_be(sector, chosen.content[sector]);
  }
  const outcome<void> done = run(base.io(), base.target().snapshots()->apply(id_of(chosen.name)));
  for (std::size_t sector = 0; done && sector < chosen.content.size(); ++sector) {
    base.oracle().set(sector, chosen.content[sector]);
  }
  if (done && base.power().on()) base.oracle().settle();
  settle(done, "apply");
}

void snapshot_world::expect_snapshots(simulated_disk& disk) {
  const std::unique_ptr<image> reader = base.open_reader(disk);
  ASSERT_NE(reader, nullptr);
  const std::vector<snapshot_info> found = reader->snapshots()->list();
  EXPECT_TRUE(run(base.io(), reader->close()).has_value());
  const std::vector<kept>& expected = is_list(found, snapshots_) ? snapshots_ : next_;
  ASSERT_TRUE(is_list(found, expected)) << "neither the snapshots before nor those after";
  for (std::size_t index = 0; index < found.size(); ++index) {
    const std::unique_ptr<image> shown = base.open_reader(disk, found[index].id);
    ASSERT_NE(shown, nullptr);
    EXPECT_EQ(base.read_tags(*shown), expected[index].content) << found[index].name;
    EXPECT_TRUE(run(base.io(), shown->close()).has_value());
  }
}

void snapshot_world::expect_survival(std::uint64_t survival) {
  base.expect_survival(survival);
  if (testing::Test::HasFailure()) return;
  simulated_disk survivor = base.disk().after_power_loss(survival);
  expect_snapshots(survivor);
  const std::unique_ptr<image> writer = base.open_writer(survivor);
  ASSERT_NE(writer, nullptr);
  while (!writer->snapshots()->list().empty()) {
    const std::string id = writer->snapshots()->list().front().id;
    const outcome<void> removed = run(base.io(), writer->snapshots()->remove(id));
    ASSERT_TRUE(removed.has_value()) << removed.error().what;
  }
  EXPECT_TRUE(run(base.io(), writer->close()).has_value());
  const qcow2_report report = check_qcow2(qcow2_world::bytes_of(survivor));
  EXPECT_TRUE(report.errors.empty()) << "after removing all: " << report.text();
}

bool snapshot_world::is_list(const std::vector<snapshot_info>& found, const std::vector<kept>& wanted) {
  return std::ranges::equal(found, wanted, {}, &snapshot_info::name, &kept::name);
}

std::string snapshot_world::id_of(const std::string& name) {
  for (const snapshot_info& each : base.target().snapshots()->list()) {
    if (each.name == name) return each.id;
  }
  return {};
}

std::vector<sector_oracle::tag> snapshot_world::now() {
  std::vector<sector_oracle::tag> all;
  for (std::size_t sector = 0; sector < base.oracle().count(); ++sector)
    all.push_back(base.oracle().at(sector));
  return all;
}

void snapshot_world::settle(const outcome<void>& done, const char* what) {
  if (!base.power().on()) return;
  if (done) {
    snapshots_ = next_;
  } else {
    next_ = snapshots_;
    const error_code code = done.error().code;
    const bool too_narrow = code == errno_code(EOVERFLOW) || code == error_code(errc::not_supported);
    EXPECT_TRUE(too_narrow) << what << ": " << done.error().what;
  }
}

}  // namespace weir::test
