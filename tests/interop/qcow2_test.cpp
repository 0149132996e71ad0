// qcow2 against QEMU: we read what it writes, it finds clean and reads what we write.
#include "formats/qcow2/qcow2.hpp"

#include "engine/storage/simulated_storage.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/qcow2_checker.hpp"
#include "tests/support/qemu_image.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace weir::test {
namespace {

using bytes = std::vector<std::byte>;

/// Half text-like, half noise, some zeros: compresses, but not to nothing.
bytes mixed_content(std::size_t size, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  bytes made(size);
  for (std::size_t block = 0; block < size; block += 4096) {
    const auto kind = random() % 4;
    const std::size_t end = std::min(size, block + 4096);
    for (std::size_t at = block; at < end && kind != 0; ++at) {
      made[at] = static_cast<std::byte>(kind == 1 ? random() : 'a' + random() % 4);
    }
  }
  return made;
}

class qcow2_interop : public testing::Test {
 protected:
  outcome<std::unique_ptr<image>> try_open(simulated_disk& disk, bool writable) {
    return run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(disk), {.writable = writable}));
  }

  std::unique_ptr<image> open(simulated_disk& disk, bool writable) {
    auto opened = try_open(disk, writable);
    if (!opened) {
      ADD_FAILURE() << opened.error().what;
      return nullptr;
    }
    return std::move(*opened);
  }

  bytes read_all(image& from, std::span<const std::byte> backing = {}) {
    bytes all(static_cast<std::size_t>(from.virtual_size()));
    image_driver driver(from, backing);
    const auto got = run(io_, driver.read(0, all));
    EXPECT_TRUE(got.has_value()) << got.error().message();
    return all;
  }

  void expect_reads(const std::string& path, const bytes& wanted, std::span<const std::byte> backing = {}) {
    simulated_disk disk = disk_of(path);
    const auto opened = open(disk, false);
    ASSERT_NE(opened, nullptr);
    const bytes got = read_all(*opened, backing);
    ASSERT_EQ(got.size(), wanted.size());
    const auto difference = std::ranges::mismatch(got, wanted);
    EXPECT_TRUE(difference.in1 == got.end()) << "first difference at " << (difference.in1 - got.begin());
    EXPECT_TRUE(run(io_, opened->close()).has_value());
  }

  /// Opens the file's image for writing, lets `work` change it and puts the result back.
  void change(const std::string& path, const std::function<void(image&, image_driver&)>& work,
              std::span<const std::byte> backing = {}) {
    simulated_disk disk = disk_of(path);
    const auto opened = open(disk, true);
    ASSERT_NE(opened, nullptr);
    image_driver driver(*opened, backing);
    work(*opened, driver);
    const auto closed = run(io_, opened->close());
    EXPECT_TRUE(closed.has_value()) << closed.error().message();
    save_disk(disk, path);
  }

  void expect_clean(const std::string& path) {
    must_run("qemu-img check -f qcow2 " + path);
    const qcow2_report report = check_qcow2(file_bytes(path));
    EXPECT_TRUE(report.is_clean()) << report.text();
  }

  void write(image_driver& driver, bytes& model, std::uint64_t offset, std::uint64_t length,
             std::byte value) {
    const bytes data(static_cast<std::size_t>(length), value);
    std::ranges::copy(data, model.begin() + static_cast<std::ptrdiff_t>(offset));
    const auto wrote = run(io_, driver.write(offset, data));
    EXPECT_TRUE(wrote.has_value()) << wrote.error().message();
  }

  temporary_directory directory_;
  boost::asio::io_context io_;
};

struct geometry_case {
  const char* options;
  std::uint64_t cluster;
};

const geometry_case geometries[] = {
    {"cluster_size=512", 512},
    {"cluster_size=512,refcount_bits=64", 512},
    {"cluster_size=1k,refcount_bits=1", 1024},
    {"cluster_size=2k,refcount_bits=2", 2048},
    {"cluster_size=4k,refcount_bits=4", 4096},
    {"cluster_size=8k,refcount_bits=8", 8192},
    {"cluster_size=16k,refcount_bits=32", 16384},
    {"cluster_size=32k,compat=0.10", 32768},
    {"cluster_size=64k,lazy_refcounts=on", 65536},
    {"cluster_size=128k,compression_type=zstd", 131072},
    {"cluster_size=1M", 1 << 20},
    {"cluster_size=2M", 2 << 20},
};

const geometry_case subcluster_geometries[] = {
    {"cluster_size=16k,extended_l2=on", 16384},
    {"cluster_size=64k,extended_l2=on,refcount_bits=1", 65536},
    {"cluster_size=2M,extended_l2=on,compression_type=zstd", 2 << 20},
};

std::vector<geometry_case> all_geometries() {
  std::vector<geometry_case> all(std::begin(geometries), std::end(geometries));
  all.insert(all.end(), std::begin(subcluster_geometries), std::end(subcluster_geometries));
  return all;
}

TEST_F(qcow2_interop, reads_what_qemu_wrote) {
  for (const geometry_case& each : all_geometries()) {
    SCOPED_TRACE(each.options);
    const std::string path = directory_ / "a.qcow2";
    const std::string c = std::to_string(each.cluster);
    must_run("qemu-img create -f qcow2 -o " + std::string(each.options) + " " + path + " 9437696");
    const bool v2 = std::string(each.options).contains("0.10");
    std::string commands =
        " -c 'write -P 0x11 0 300k' -c 'write -P 0x22 1234432 70k' -c 'write -P 0x33 4M 3M'";
    commands += " -c 'discard 5M 2M' -c 'write -P 0x44 9436160 1536'";
    if (!v2) commands += " -c 'write -z 2M 2M' -c 'write -z -u 0 " + c + "' -c 'write -P 0x55 3M 512'";
    must_run("qemu-io -f qcow2" + commands + " " + path);
    expect_reads(path, guest_bytes(path, "qcow2"));
  }
}

// Subclusters in each state side by side, over a backing image and with a snapshot's COPIED flags cleared.
TEST_F(qcow2_interop, reads_subclusters_that_qemu_wrote) {
  const std::string base = directory_ / "base.raw";
  const bytes backing = mixed_content(4 * MiB, 3);
  write_file(base, backing);
  const std::string path = directory_ / "sub.qcow2";
  for (const std::uint64_t cluster : {std::uint64_t{16384}, std::uint64_t{65536}, std::uint64_t{1} << 20}) {
    SCOPED_TRACE(cluster);
    must_run("qemu-img create -f qcow2 -o extended_l2=on,cluster_size=" + std::to_string(cluster) +
             " -F raw -b " + base + " " + path + " 4M");
    std::mt19937_64 random(cluster);
    for (int round = 0; round < 3; ++round) {
      std::string commands;
      for (int step = 0; step < 25; ++step) {
        const std::uint64_t at = random() % (4 * MiB - 512) / 512 * 512;
        const std::uint64_t length = std::min(4 * MiB - at, (1 + random() % (cluster / 512)) * 512);
        const std::string place = std::to_string(at) + " " + std::to_string(length);
        const std::string pattern = std::to_string(1 + random() % 250);
        const char* const verbs[] = {"write -P", "write -z", "write -z -u", "discard"};
        const std::string verb = verbs[random() % 4];
        commands += " -c '" + verb + " " + (verb == "write -P" ? pattern + " " : "") + place + "'";
      }
      must_run("qemu-io -d unmap -f qcow2" + commands + " " + path);
      expect_reads(path, guest_bytes(path, "qcow2"), backing);
      if (round == 1) must_run("qemu-img snapshot -c s " + path);
    }
  }
}

TEST_F(qcow2_interop, reads_compressed_clusters) {
  const std::string raw = directory_ / "content";
  write_file(raw, mixed_content(9437696, 7));
  for (const geometry_case& each : all_geometries()) {
    SCOPED_TRACE(each.options);
    for (const char* type : {"zlib", "zstd"}) {
      const std::string options = each.options;
      if (options.contains("compression_type") || (options.contains("0.10") && type[1] == 's')) continue;
      const std::string path = directory_ / "compressed.qcow2";
      must_run("qemu-img convert -c -O qcow2 -o " + options +
               (options.contains("0.10") ? "" : ",compression_type=") +
               (options.contains("0.10") ? "" : type) + " " + raw + " " + path);
      expect_reads(path, file_bytes(raw));
    }
  }
}

TEST_F(qcow2_interop, overwrites_compressed_clusters) {
  const std::string raw = directory_ / "content";
  for (const char* options : {"cluster_size=512", "cluster_size=4k", "cluster_size=64k,compression_type=zstd",
                              "cluster_size=64k,extended_l2=on"}) {
    SCOPED_TRACE(options);
    bytes model = mixed_content(2 * MiB, 11);
    write_file(raw, model);
    const std::string path = directory_ / "compressed.qcow2";
    must_run("qemu-img convert -c -O qcow2 -o " + std::string(options) + " " + raw + " " + path);
    change(path, [&](image&, image_driver& driver) {
      for (std::uint64_t at = 100; at + 9000 < model.size(); at += 131000) {
        write(driver, model, at, 9000, std::byte{0x5a});
      }
      EXPECT_TRUE(run(io_, driver.zero({1 * MiB, 256 * KiB})).has_value());
      std::fill_n(model.begin() + 1 * MiB, 256 * KiB, std::byte{0});
      EXPECT_TRUE(run(io_, driver.flush()).has_value());
      write(driver, model, 1 * MiB + 4096, 70000, std::byte{0x66});
    });
    expect_clean(path);
    EXPECT_TRUE(guest_bytes(path, "qcow2") == model);
  }
}

TEST_F(qcow2_interop, qemu_reads_what_we_create_and_write) {
  for (const geometry_case& each : all_geometries()) {
    SCOPED_TRACE(each.options);
    image_create_options options;
    options.virtual_size = 9437696;
    std::string text = each.options;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t comma = std::min(text.find(',', at), text.size());
      const std::size_t equals = text.find('=', at);
      options.options[text.substr(at, equals - at)] = text.substr(equals + 1, comma - equals - 1);
      at = comma + 1;
    }
    simulated_disk disk;
    simulated_storage into(disk);
    const auto created = run(io_, qcow2_driver().create(into, options));
    ASSERT_TRUE(created.has_value()) << created.error().what;
    const std::string path = directory_ / "ours.qcow2";
    save_disk(disk, path);
    expect_clean(path);
    bytes model(9437696);
    change(path, [&](image& target, image_driver& driver) {
      write(driver, model, 0, 1, std::byte{1});
      write(driver, model, 1 * MiB + 77, 3 * MiB, std::byte{2});
      write(driver, model, 9437696 - 700, 700, std::byte{3});
      const byte_range discarded = driver.whole_grains({2 * MiB, 1 * MiB});
      EXPECT_TRUE(run(io_, driver.discard({2 * MiB, 1 * MiB})).has_value());
      std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(discarded.offset), discarded.length,
                  std::byte{0});
      EXPECT_TRUE(run(io_, target.flush()).has_value());
      write(driver, model, 2 * MiB + 5000, 40000, std::byte{4});
      EXPECT_TRUE(run(io_, driver.zero({7 * MiB, 1 * MiB}, zero_mode::keep_allocated)).has_value());
    });
    expect_clean(path);
    EXPECT_TRUE(guest_bytes(path, "qcow2") == model);
  }
}

TEST_F(qcow2_interop, leaves_internal_snapshots_alone) {
  for (const char* options : {"cluster_size=512", "cluster_size=4k", "cluster_size=64k", "compat=0.10",
                              "cluster_size=16k,extended_l2=on"}) {
    SCOPED_TRACE(options);
    const std::string path = directory_ / "snapshots.qcow2";
    must_run("qemu-img create -f qcow2 -o " + std::string(options) + " " + path + " 4M");
    must_run("qemu-io -f qcow2 -c 'write -P 0x11 0 2M' " + path);
    must_run("qemu-img snapshot -c first " + path);
    must_run("qemu-io -f qcow2 -c 'write -P 0x22 1M 300k' " + path);
    must_run("qemu-img snapshot -c second " + path);
    const bytes first = guest_bytes(path, "qcow2", "-l snapshot.name=first");
    const bytes second = guest_bytes(path, "qcow2", "-l snapshot.name=second");
    bytes model = guest_bytes(path, "qcow2");
    change(path, [&](image&, image_driver& driver) {
      write(driver, model, 1000, 70000, std::byte{0x33});
      write(driver, model, 1 * MiB + 9000, 700000, std::byte{0x44});
      EXPECT_TRUE(run(io_, driver.flush()).has_value());
      write(driver, model, 1 * MiB, 200000, std::byte{0x45});
      const byte_range gone = driver.whole_grains({512 * KiB, 128 * KiB});
      EXPECT_TRUE(run(io_, driver.discard(gone)).has_value());
      std::fill_n(model.begin() + static_cast<std::ptrdiff_t>(gone.offset), gone.length, std::byte{0});
    });
    expect_clean(path);
    EXPECT_TRUE(guest_bytes(path, "qcow2") == model);
    EXPECT_TRUE(guest_bytes(path, "qcow2", "-l snapshot.name=first") == first);
    EXPECT_TRUE(guest_bytes(path, "qcow2", "-l snapshot.name=second") == second);
    must_run("qemu-img snapshot -d first " + path);
    must_run("qemu-img snapshot -d second " + path);
    expect_clean(path);
    EXPECT_TRUE(guest_bytes(path, "qcow2") == model);
  }
}

TEST_F(qcow2_interop, rebuilds_the_counts_of_a_dirty_image) {
  for (const char* options : {"cluster_size=512", "cluster_size=64k"}) {
    SCOPED_TRACE(options);
    const std::string path = directory_ / "dirty.qcow2";
    must_run("qemu-img create -f qcow2 -o lazy_refcounts=on," + std::string(options) + " " + path + " 4M");
    // qemu-io aborts with the dirty bit set and counts that were never written.
    run_command(
        "qemu-io -f qcow2 -c 'write -P 0x11 0 1M' -c flush -c 'write -P 0x22 2M 300k' -c flush -c abort " +
        path);
    ASSERT_NE(run_command("qemu-img check -f qcow2 " + path).status, 0) << "the image should be dirty";
    bytes model(4 * MiB);
    std::fill_n(model.begin(), 1 * MiB, std::byte{0x11});
    std::fill_n(model.begin() + 2 * MiB, 300 * KiB, std::byte{0x22});
    expect_reads(path, model);
    change(path, [&](image&, image_driver& driver) { write(driver, model, 3 * MiB, 5000, std::byte{0x33}); });
    expect_clean(path);
    EXPECT_TRUE(guest_bytes(path, "qcow2") == model);
  }
}

TEST_F(qcow2_interop, changes_the_backing_image) {
  must_run("qemu-img create -f raw " + directory_ / "base.raw" + " 1M");
  must_run("qemu-img create -f qcow2 " + directory_ / "mid.qcow2" + " 1M");
  for (const char* options : {"cluster_size=64k", "compat=0.10", "cluster_size=1k"}) {
    SCOPED_TRACE(options);
    const std::string path = directory_ / "top.qcow2";
    must_run("qemu-img create -f qcow2 -F qcow2 -b mid.qcow2 -o " + std::string(options) + " " + path);
    const auto set = [&](std::optional<backing_reference> wanted) {
      change(path, [&](image& target, image_driver&) {
        const auto done = run(io_, target.set_backing(wanted));
        EXPECT_TRUE(done.has_value()) << done.error().message();
        EXPECT_EQ(target.backing(), wanted);
      });
      expect_clean(path);
      return must_run("qemu-img info --output=json " + path);
    };
    std::string info = set(backing_reference{"base.raw", "raw", false});
    EXPECT_TRUE(info.contains("\"backing-filename\": \"base.raw\"")) << info;
    EXPECT_TRUE(info.contains("\"backing-filename-format\": \"raw\"")) << info;
    info = set(std::nullopt);
    EXPECT_FALSE(info.contains("backing-filename")) << info;
    info = set(backing_reference{"mid.qcow2", "qcow2", false});
    EXPECT_TRUE(info.contains("\"backing-filename\": \"mid.qcow2\"")) << info;
    EXPECT_TRUE(info.contains("\"backing-filename-format\": \"qcow2\"")) << info;
  }
}

TEST_F(qcow2_interop, withdraws_bitmaps_it_does_not_keep_up) {
  const std::string path = directory_ / "bitmaps.qcow2";
  must_run("qemu-img create -f qcow2 " + path + " 4M");
  must_run("qemu-img bitmap --add " + path + " changes");
  bytes model(4 * MiB);
  change(path, [&](image&, image_driver& driver) { write(driver, model, 5000, 5000, std::byte{9}); });
  EXPECT_TRUE(guest_bytes(path, "qcow2") == model);
  // The bitmap's own clusters are counted but, withdrawn, belong to nobody: leaks (3), no errors (2).
  const int status = run_command("qemu-img check -f qcow2 " + path).status;
  EXPECT_TRUE(status == 0 || status == 3) << status;
}

TEST_F(qcow2_interop, refuses_by_name_what_it_cannot_read) {
  const auto refused = [&](const std::string& create, const std::string& word) {
    const std::string path = directory_ / "refused.qcow2";
    must_run("rm -f " + path + " && qemu-img create -f qcow2 " + create + " " + path + " 1M");
    simulated_disk disk = disk_of(path);
    for (const bool writable : {false, true}) {
      const auto opened = try_open(disk, writable);
      ASSERT_FALSE(opened.has_value()) << create;
      EXPECT_EQ(opened.error().code, error_code(errc::unsupported_feature));
      EXPECT_TRUE(opened.error().what.contains(word)) << opened.error().what;
    }
    EXPECT_EQ(disk.unsynced_count(), 0U);
  };
  refused("-o data_file=" + directory_ / "data.raw", "data file");
  refused("--object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10",
          "LUKS");
}

}  // namespace
}  // namespace weir::test
