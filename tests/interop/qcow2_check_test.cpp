// Checking and repairing qcow2 images that were damaged on purpose: our verdict is qemu-img's, and after our
// repair qemu-img finds nothing and the guest's content is what it was.
#include "engine/storage/simulated_storage.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "formats/qcow2/refcount_codec.hpp"
#include "tests/support/qemu_image.hpp"
#include "tests/support/run_task.hpp"
#include "tests/support/seeds.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace weir::test {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::uint64_t copied = std::uint64_t{1} << 63;
constexpr std::uint64_t compressed = std::uint64_t{1} << 62;
constexpr std::uint64_t offset_bits = 0x00ff'ffff'ffff'fe00;

/// The raw bytes of an image, addressed as its tables say.
class raw_image {
 public:
  explicit raw_image(const std::string& path) : path_(path), file_(file_bytes(path)) {}
  void save() const { write_file(path_, file_); }

  std::uint64_t size() const { return file_.size(); }
  std::uint64_t number(std::uint64_t at) const { return load_big<std::uint64_t>(file_.data() + at); }
  void put(std::uint64_t at, std::uint64_t value) { store_big(file_.data() + at, value); }
  std::uint64_t cluster_size() const {
    return std::uint64_t{1} << load_big<std::uint32_t>(file_.data() + 20);
  }
  std::uint64_t l1() const { return number(40); }
  std::uint64_t table() const { return number(48); }
  /// Where the entry of guest cluster `index` stands.
  std::uint64_t entry_at(std::uint64_t index) const {
    const std::uint64_t per_table = cluster_size() / 8;
    return (number(l1() + index / per_table * 8) & offset_bits) + index % per_table * 8;
  }
  std::uint64_t host(std::uint64_t index) const { return number(entry_at(index)) & offset_bits; }
  /// Appends zeroed clusters; returns the first one's offset.
  std::uint64_t append(std::uint64_t clusters) {
    const std::uint64_t at = align_up(file_.size(), cluster_size());
    file_.resize(static_cast<std::size_t>(at + clusters * cluster_size()));
    return at;
  }
  std::uint64_t count(std::uint64_t offset) const {
    const auto [block, index] = place(offset);
    return qcow2::load_refcount(file_.data() + block, index, order());
  }
  void set_count(std::uint64_t offset, std::uint64_t value) {
    const auto [block, index] = place(offset);
    qcow2::store_refcount(file_.data() + block, index, order(), value);
  }

 private:
  unsigned order() const {
    return load_big<std::uint32_t>(file_.data() + 4) < 3 ? 4 : load_big<std::uint32_t>(file_.data() + 96);
  }
  std::pair<std::uint64_t, std::uint64_t> place(std::uint64_t offset) const {
    const std::uint64_t per_block = cluster_size() * 8 >> order();
    const std::uint64_t cluster = offset / cluster_size();
    return {number(table() + cluster / per_block * 8), cluster % per_block};
  }

  std::string path_;
  bytes file_;
};

int verdict(const check_report& report) {
  if (report.check_errors > 0) return 1;
  if (report.corruptions > 0) return 2;
  return report.leaks > 0 ? 3 : 0;
}

using damage = std::function<void(raw_image&)>;

struct damage_case {
  const char* name;
  damage inflict;
};

class qcow2_check_interop : public testing::Test {
 protected:
  outcome<check_report> try_check(const std::string& path, repair_mode repair) {
    simulated_disk disk = disk_of(path);
    findings_.clear();
    check_options options;
    options.repair = repair;
    options.on_finding = [this](std::string_view line) { findings_.append(line).append("\n"); };
    const auto report = run(io_, qcow2_driver().check(std::make_unique<simulated_storage>(disk), options));
    if (repair == repair_mode::none) {
      EXPECT_EQ(disk.unsynced_count(), 0U) << "a check that repairs nothing wrote";
    } else {
      save_disk(disk, path);
    }
    return report;
  }
  check_report check(const std::string& path, repair_mode repair) {
    const outcome<check_report> report = try_check(path, repair);
    EXPECT_TRUE(report.has_value()) << (report ? "" : report.error().what);
    return report ? *report : check_report{};
  }
  static int qemu_verdict(const std::string& path) {
    return run_command("qemu-img check -f qcow2 " + path).status;
  }

  void create(const std::string& path, const std::string& options, bool with_snapshots) {
    must_run("qemu-img create -f qcow2 -o " + options + " " + path + " 4M");
    must_run("qemu-io -f qcow2 -c 'write -P 0x11 0 1M' -c 'write -P 0x22 3M 512k' " + path);
    if (!with_snapshots) return;
    must_run("qemu-img snapshot -c one " + path);
    must_run("qemu-io -f qcow2 -c 'write -P 0x33 0 256k' " + path);
    must_run("qemu-img snapshot -c two " + path);
    must_run("qemu-io -f qcow2 -c 'write -P 0x44 3M 128k' " + path);
  }

  /// All content that can be read: active state, then snapshots.
  static std::vector<bytes> contents(const std::string& path, bool with_snapshots) {
    std::vector<bytes> all{guest_bytes(path, "qcow2")};
    if (with_snapshots) all.push_back(guest_bytes(path, "qcow2", "-l snapshot.name=one"));
    if (with_snapshots) all.push_back(guest_bytes(path, "qcow2", "-l snapshot.name=two"));
    return all;
  }

  void expect_repair(const std::string& path, bool with_snapshots) {
    const std::vector<bytes> before = contents(path, with_snapshots);
    const int theirs = qemu_verdict(path);
    const check_report found = check(path, repair_mode::none);
    EXPECT_EQ(verdict(found), theirs) << findings_;
    // Beside snapshots some flags and counts are right by chance.
    EXPECT_TRUE(theirs != 0 || with_snapshots) << "the damage is none";
    const check_report repaired = check(path, repair_mode::all);
    EXPECT_TRUE(repaired.is_clean()) << findings_;
    EXPECT_EQ(repaired.corruptions_fixed + repaired.leaks_fixed == 0, found.is_clean());
    const command_result after = run_command("qemu-img check -f qcow2 " + path);
    EXPECT_EQ(after.status, 0) << after.output << findings_;
    EXPECT_TRUE(contents(path, with_snapshots) == before) << "the guest's content has changed";
    EXPECT_TRUE(check(path, repair_mode::none).is_clean()) << findings_;
  }

  temporary_directory directory_;
  boost::asio::io_context io_;
  std::string findings_;
};

const damage_case repairable[] = {
    {"a cluster that nobody uses counts one", [](raw_image& image) { image.set_count(image.append(1), 1); }},
    {"data counts two", [](raw_image& image) { image.set_count(image.host(3), 2); }},
    {"data counts none", [](raw_image& image) { image.set_count(image.host(3), 0); }},
    {"the L1 table counts none", [](raw_image& image) { image.set_count(image.l1(), 0); }},
    {"the header counts none", [](raw_image& image) { image.set_count(0, 0); }},
    {"COPIED is missing in an L2 entry",
     [](raw_image& image) { image.put(image.entry_at(1), image.number(image.entry_at(1)) & ~copied); }},
    {"COPIED is missing in an L1 entry",
     [](raw_image& image) { image.put(image.l1(), image.number(image.l1()) & ~copied); }},
    {"two entries name one cluster",
     [](raw_image& image) { image.put(image.entry_at(2), image.number(image.entry_at(3))); }},
    {"an entry is lost", [](raw_image& image) { image.put(image.entry_at(2), 0); }},
    {"the refcount table's entry is lost", [](raw_image& image) { image.put(image.table(), 0); }},
    {"the refcount table's entry is no cluster",
     [](raw_image& image) { image.put(image.table(), image.number(image.table()) + 256); }},
    {"the refcount table's entry is past the end",
     [](raw_image& image) { image.put(image.table(), std::uint64_t{1} << 40); }},
    {"data lies on a refcount block",
     [](raw_image& image) { image.put(image.entry_at(2), copied | image.number(image.table())); }},
    {"a count block is full of rubbish",
     [](raw_image& image) {
       for (std::uint64_t at = 0; at < 64; at += 8)
         image.put(image.number(image.table()) + at, 0x0507050705070507);
     }},
};

TEST_F(qcow2_check_interop, clean_images_are_clean_in_the_same_figures) {
  for (const char* options :
       {"cluster_size=512", "cluster_size=4k,refcount_bits=1", "cluster_size=64k", "compat=0.10",
        "cluster_size=2M", "cluster_size=64k,refcount_bits=64", "cluster_size=16k,extended_l2=on"}) {
    SCOPED_TRACE(options);
    const std::string path = directory_ / "clean.qcow2";
    create(path, options, !std::string(options).contains("refcount_bits=1"));
    const check_report found = check(path, repair_mode::none);
    EXPECT_TRUE(found.is_clean()) << findings_;
    const std::string json = must_run("qemu-img check --output=json -f qcow2 " + path);
    const auto expect = [&](const std::string& key, std::uint64_t value) {
      const std::string wanted = "\"" + key + "\": " + std::to_string(value);
      EXPECT_TRUE(value == 0 ? !json.contains(key) : json.contains(wanted)) << wanted << "\n" << json;
    };
    expect("image-end-offset", found.image_end_offset);
    expect("total-clusters", found.total_clusters);
    expect("allocated-clusters", found.allocated_clusters);
    expect("fragmented-clusters", found.fragmented_clusters);
    const bytes before = file_bytes(path);
    EXPECT_TRUE(check(path, repair_mode::all).is_clean());
    EXPECT_TRUE(file_bytes(path) == before) << "a repair of a clean image wrote";
  }
}

class qcow2_check_repairs : public qcow2_check_interop, public testing::WithParamInterface<const char*> {
 protected:
  /// Each damage on a fresh copy of one image.
  void repair_each(std::span<const damage_case> cases, bool with_snapshots) {
    const std::string original = directory_ / "original.qcow2";
    const std::string path = directory_ / "damaged.qcow2";
    create(original, GetParam(), with_snapshots);
    for (const damage_case& each : cases) {
      SCOPED_TRACE(each.name);
      write_file(path, file_bytes(original));
      raw_image image(path);
      each.inflict(image);
      image.save();
      expect_repair(path, with_snapshots);
    }
  }
};

TEST_P(qcow2_check_repairs, what_qemu_finds) {
  repair_each(repairable, false);
}

TEST_P(qcow2_check_repairs, what_qemu_finds_beside_snapshots) {
  repair_each(repairable, true);
}

const damage_case shared_damage[] = {
    {"shared data counts one", [](raw_image& image) { image.set_count(image.host(10), 1); }},
    {"shared data counts nine", [](raw_image& image) { image.set_count(image.host(10), 9); }},
    {"shared data is marked COPIED",
     [](raw_image& image) { image.put(image.entry_at(10), image.number(image.entry_at(10)) | copied); }},
    {"the snapshot table counts none", [](raw_image& image) { image.set_count(image.number(64), 0); }},
    {"a snapshot's L1 table counts none",
     [](raw_image& image) { image.set_count(image.number(image.number(64)), 0); }},
    {"a snapshot's L1 table counts two",
     [](raw_image& image) { image.set_count(image.number(image.number(64)), 2); }},
};

TEST_P(qcow2_check_repairs, what_snapshots_share) {
  repair_each(shared_damage, true);
}

INSTANTIATE_TEST_SUITE_P(geometries, qcow2_check_repairs,
                         testing::Values("cluster_size=512", "cluster_size=64k",
                                         "cluster_size=4k,refcount_bits=64", "compat=0.10",
                                         "cluster_size=2k,refcount_bits=8"),
                         [](const auto& info) { return "number_" + std::to_string(info.index); });

const damage_case mended_by_us_alone[] = {
    {"reserved bits in an L2 entry",
     [](raw_image& image) { image.put(image.entry_at(1), image.number(image.entry_at(1)) | 0x20); }},
    {"reserved bits in an L1 entry",
     [](raw_image& image) { image.put(image.l1(), image.number(image.l1()) | 0x3); }},
    {"a preallocated zero cluster is unaligned",
     [](raw_image& image) { image.put(image.entry_at(40), copied | (image.size() - 512) | 1); }},
    {"a preallocated zero cluster is past the end",
     [](raw_image& image) { image.put(image.entry_at(40), copied | (std::uint64_t{1} << 40) | 1); }},
};

// qemu-img reports these and leaves most of them; nothing is lost by putting them right.
TEST_F(qcow2_check_interop, puts_right_what_loses_nothing) {
  const std::string original = directory_ / "original.qcow2";
  const std::string path = directory_ / "damaged.qcow2";
  for (const bool with_snapshots : {false, true}) {
    create(original, "cluster_size=64k", with_snapshots);
    const std::vector<bytes> before = contents(original, with_snapshots);
    for (const damage_case& each : mended_by_us_alone) {
      SCOPED_TRACE(each.name);
      write_file(path, file_bytes(original));
      raw_image image(path);
      each.inflict(image);
      image.save();
      EXPECT_EQ(qemu_verdict(path), 2);
      EXPECT_EQ(verdict(check(path, repair_mode::none)), 2) << findings_;
      EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
      EXPECT_EQ(qemu_verdict(path), 0);
      EXPECT_TRUE(contents(path, with_snapshots) == before);
    }
  }
}

const damage_case beyond_repair[] = {
    {"data is unaligned",
     [](raw_image& image) { image.put(image.entry_at(4), image.number(image.entry_at(4)) + 512); }},
    {"data is past the end",
     [](raw_image& image) { image.put(image.entry_at(4), copied | (std::uint64_t{1} << 40)); }},
    {"compressed data is past the end",
     [](raw_image& image) { image.put(image.entry_at(4), compressed | (std::uint64_t{1} << 40)); }},
    {"an L2 table is unaligned",
     [](raw_image& image) { image.put(image.l1(), image.number(image.l1()) + 512); }},
    {"an L2 table is past the end",
     [](raw_image& image) { image.put(image.l1(), copied | (std::uint64_t{1} << 40)); }},
};

TEST_F(qcow2_check_interop, says_what_is_lost_and_takes_nothing_more) {
  const std::string original = directory_ / "original.qcow2";
  const std::string path = directory_ / "damaged.qcow2";
  create(original, "cluster_size=64k", false);
  for (const damage_case& each : beyond_repair) {
    SCOPED_TRACE(each.name);
    write_file(path, file_bytes(original));
    raw_image image(path);
    const std::uint64_t entry = image.number(image.l1());
    each.inflict(image);
    const bool is_l1 = image.number(image.l1()) != entry;
    image.save();
    EXPECT_EQ(qemu_verdict(path), 2);
    EXPECT_EQ(verdict(check(path, repair_mode::none)), 2) << findings_;
    const bytes before = file_bytes(path);
    for (const repair_mode repair : {repair_mode::leaks, repair_mode::all}) {
      EXPECT_EQ(verdict(check(path, repair)), 2) << findings_;
      EXPECT_TRUE(findings_.contains(is_l1 ? "guest 0x0-0x20000000" : "guest 0x40000-0x50000")) << findings_;
      EXPECT_TRUE(findings_.contains("lost")) << findings_;
      EXPECT_TRUE(file_bytes(path) == before) << "what may be the lost data was given away";
    }
  }
}

TEST_F(qcow2_check_interop, leaks_alone_are_repaired_without_touching_the_rest) {
  const std::string path = directory_ / "leaks.qcow2";
  create(path, "cluster_size=64k", true);
  raw_image image(path);
  image.set_count(image.append(1), 1);
  image.put(image.entry_at(10), image.number(image.entry_at(10)) | copied);
  image.save();
  EXPECT_EQ(verdict(check(path, repair_mode::leaks)), 2);
  EXPECT_EQ(raw_image(path).number(image.entry_at(10)), image.number(image.entry_at(10)));
  image.put(image.entry_at(10), image.number(image.entry_at(10)) & ~copied);
  image.save();
  EXPECT_EQ(verdict(check(path, repair_mode::none)), 3);
  const check_report repaired = check(path, repair_mode::leaks);
  EXPECT_TRUE(repaired.is_clean());
  EXPECT_EQ(repaired.leaks_fixed, 1U);
  EXPECT_EQ(qemu_verdict(path), 0);
}

TEST_F(qcow2_check_interop, marks_go_once_nothing_is_wrong) {
  const std::string path = directory_ / "marked.qcow2";
  create(path, "cluster_size=64k", false);
  raw_image image(path);
  image.put(72, 3);  // dirty, corrupt
  image.set_count(image.host(3), 0);
  image.save();
  EXPECT_EQ(verdict(check(path, repair_mode::none)), 2);
  EXPECT_EQ(raw_image(path).number(72), 3U);
  EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
  EXPECT_EQ(raw_image(path).number(72), 0U);
  image.put(72, 2);
  image.put(image.entry_at(4), copied | (std::uint64_t{1} << 40));
  image.save();
  EXPECT_EQ(verdict(check(path, repair_mode::all)), 2);
  EXPECT_EQ(raw_image(path).number(72), 2U) << "still corrupt, still marked";
}

TEST_F(qcow2_check_interop, a_refcount_table_in_an_impossible_place) {
  const std::string path = directory_ / "table.qcow2";
  for (const std::uint64_t place : {std::uint64_t{1} << 40, std::uint64_t{512}, std::uint64_t{0}}) {
    create(path, "cluster_size=64k", true);
    const std::vector<bytes> before = contents(path, true);
    raw_image image(path);
    image.put(48, place);
    image.save();
    EXPECT_EQ(verdict(check(path, repair_mode::none)), 2) << findings_;
    EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
    EXPECT_EQ(qemu_verdict(path), 0);
    EXPECT_TRUE(contents(path, true) == before);
  }
}

TEST_F(qcow2_check_interop, dirty_images_with_snapshots) {
  const std::string path = directory_ / "dirty.qcow2";
  create(path, "cluster_size=4k,lazy_refcounts=on", true);
  run_command("qemu-io -f qcow2 -c 'write -P 0x55 0 700k' -c flush -c abort " + path);
  ASSERT_NE(qemu_verdict(path), 0) << "the image should be dirty";
  const std::vector<bytes> before = contents(path, true);
  EXPECT_EQ(verdict(check(path, repair_mode::none)), qemu_verdict(path)) << findings_;
  // Opening for writing repairs as well.
  const bytes dirty = file_bytes(path);
  simulated_disk disk = disk_of(path);
  const auto opened =
      run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(disk), {.writable = true}));
  ASSERT_TRUE(opened.has_value()) << opened.error().what;
  EXPECT_TRUE(run(io_, (*opened)->close()).has_value());
  save_disk(disk, path);
  EXPECT_EQ(qemu_verdict(path), 0);
  EXPECT_TRUE(contents(path, true) == before);
  write_file(path, dirty);
  EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
  EXPECT_EQ(qemu_verdict(path), 0);
  EXPECT_TRUE(contents(path, true) == before);
}

TEST_F(qcow2_check_interop, compressed_clusters_share_host_clusters) {
  const std::string raw = directory_ / "content";
  bytes content(4 * MiB);
  for (std::size_t at = 0; at < content.size(); ++at) content[at] = static_cast<std::byte>(at / 977 % 251);
  write_file(raw, content);
  for (const char* options : {"cluster_size=512", "cluster_size=64k", "cluster_size=2M"}) {
    SCOPED_TRACE(options);
    const std::string path = directory_ / "compressed.qcow2";
    must_run("qemu-img convert -c -O qcow2 -o " + std::string(options) + " " + raw + " " + path);
    const check_report found = check(path, repair_mode::none);
    EXPECT_TRUE(found.is_clean()) << findings_;
    const std::string json = must_run("qemu-img check --output=json -f qcow2 " + path);
    EXPECT_TRUE(json.contains("\"compressed-clusters\": " + std::to_string(found.compressed_clusters)))
        << json;
    raw_image image(path);
    const std::uint64_t first = image.number(image.entry_at(0)) & 0xffff'ffff;
    image.set_count(first, image.count(first) - 1);
    image.save();
    EXPECT_EQ(verdict(check(path, repair_mode::none)), 2);
    EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
    EXPECT_EQ(qemu_verdict(path), 0);
    EXPECT_TRUE(guest_bytes(path, "qcow2") == content);
    if ((image.number(image.entry_at(0)) & compressed) == 0) continue;
    image.put(image.entry_at(0), image.number(image.entry_at(0)) | copied);
    image.set_count(first, image.count(first) + 1);
    image.save();
    EXPECT_EQ(qemu_verdict(path), 2);
    EXPECT_EQ(verdict(check(path, repair_mode::none)), 2);
    EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
    EXPECT_EQ(qemu_verdict(path), 0);
    EXPECT_TRUE(guest_bytes(path, "qcow2") == content);
  }
}

TEST_F(qcow2_check_interop, bitmaps_encryption_and_data_files_are_counted) {
  const std::string path = directory_ / "extras.qcow2";
  create(path, "cluster_size=64k", true);
  must_run("qemu-img bitmap --add -g 4096 " + path + " changes");
  must_run("qemu-io -f qcow2 -c 'write -P 0x66 2M 64k' " + path);
  EXPECT_EQ(qemu_verdict(path), 0);
  EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
  EXPECT_EQ(qemu_verdict(path), 0);
  EXPECT_TRUE(must_run("qemu-img info " + path).contains("changes"));
  must_run("rm " + path);
  const std::string secret = " --object secret,id=s,data=x ";
  must_run("qemu-img create -f qcow2" + secret +
           "-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 " + path + " 4M");
  EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
  must_run("rm " + path);
  must_run("qemu-img create -f qcow2 -o data_file=" + directory_ / "data.raw" + " " + path + " 4M");
  must_run("qemu-io -f qcow2 -c 'write -P 0x66 1M 640k' " + path);
  EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
  raw_image image(path);
  image.put(image.entry_at(16), image.number(image.entry_at(16)) & ~copied);
  image.save();
  EXPECT_EQ(qemu_verdict(path), 2);
  EXPECT_EQ(verdict(check(path, repair_mode::none)), 2);
  EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
  EXPECT_EQ(qemu_verdict(path), 0);
}

/// Damage that a repair can put right, several at a time.
void inflict_some(raw_image& image, std::mt19937_64& random) {
  const std::uint64_t cluster = image.cluster_size();
  const auto data = [&] {
    const std::uint64_t guest =
        random() % 2 == 0 ? random() % (MiB / cluster) : (3 * MiB + random() % (512 * KiB)) / cluster;
    return guest;
  };
  const std::uint64_t place = random() % (image.size() / cluster) * cluster;
  switch (random() % 5) {
    case 0:
      return image.set_count(place, random() % 4);
    case 1:
      return image.set_count(image.append(1), 1 + random() % 3);
    case 2:
      return image.put(image.entry_at(data()), image.number(image.entry_at(data())));
    case 3: {
      const std::uint64_t at = image.entry_at(data());
      if ((image.number(at) & offset_bits) != 0) image.put(at, image.number(at) ^ copied);
      return;
    }
    default:
      return image.put(image.entry_at(data()), 0);
  }
}

TEST_F(qcow2_check_interop, random_damage_gets_qemus_verdict_and_a_repair) {
  const std::string original = directory_ / "original.qcow2";
  const std::string path = directory_ / "damaged.qcow2";
  const auto all = seeds(40);
  for (const std::uint64_t seed : all) {
    if (HasFailure()) break;
    SCOPED_TRACE("WEIR_SEED=" + std::to_string(seed));
    std::mt19937_64 random(seed);
    const bool with_snapshots = seed % 2 == 0;
    if ((seed - all.front()) % 10 < 2) {
      const unsigned bits = static_cast<unsigned>(random() % 8);
      create(original + (with_snapshots ? "s" : ""), "cluster_size=" + std::to_string(512U << bits),
             with_snapshots);
    }
    write_file(path, file_bytes(original + (with_snapshots ? "s" : "")));
    raw_image image(path);
    for (std::uint64_t left = 1 + random() % 4; left > 0; --left) inflict_some(image, random);
    image.save();
    const std::vector<bytes> before = contents(path, with_snapshots);
    EXPECT_EQ(verdict(check(path, repair_mode::none)), qemu_verdict(path)) << findings_;
    EXPECT_TRUE(check(path, repair_mode::all).is_clean()) << findings_;
    EXPECT_EQ(qemu_verdict(path), 0) << findings_;
    EXPECT_TRUE(contents(path, with_snapshots) == before);
  }
}

}  // namespace
}  // namespace weir::test
