// Every two features of qcow2 together, written by QEMU and by us in turns: after each turn qemu-img check finds
// nothing and both read the same.
#include "engine/storage/simulated_storage.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/qcow2_checker.hpp"
#include "tests/support/qemu_image.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace weir::test {
namespace {

using bytes = std::vector<std::byte>;

constexpr std::size_t dimensions = 8;
enum dimension : std::size_t { compat, cluster, refcount, subclusters, compressed, data_file, size, backing };
using combination = std::array<std::size_t, dimensions>;

const std::array<std::vector<std::string>, dimensions> choices{{{"1.1", "0.10"},
                                                                {"65536", "512", "4096", "16384", "2097152"},
                                                                {"16", "1", "64"},
                                                                {"off", "on"},
                                                                {"zlib", "zstd"},
                                                                {"", "plain", "raw"},
                                                                {"5242880", "3146240", "1049088"},
                                                                {"", "base"}}};

bool is_valid(const combination& c) {
  if (c[compat] == 1 && (c[refcount] != 0 || c[subclusters] + c[compressed] + c[data_file] != 0))
    return false;
  if (c[subclusters] == 1 && (c[cluster] == 1 || c[cluster] == 2)) return false;
  return c[data_file] != 2 || c[backing] == 0;
}

using pair = std::array<std::size_t, 4>;

std::set<pair> pairs_of(const combination& c) {
  std::set<pair> pairs;
  for (std::size_t a = 0; a < dimensions; ++a) {
    for (std::size_t b = a + 1; b < dimensions; ++b) pairs.insert({a, c[a], b, c[b]});
  }
  return pairs;
}

std::vector<combination> all_valid() {
  std::vector<combination> all;
  combination c{};
  while (true) {
    if (is_valid(c)) all.push_back(c);
    std::size_t at = 0;
    while (at < dimensions && ++c[at] == choices[at].size()) c[at++] = 0;
    if (at == dimensions) return all;
  }
}

/// Few combinations in which every pair of choices that can meet does.
std::vector<combination> pairwise_cover() {
  const std::vector<combination> all = all_valid();
  std::set<pair> open;
  for (const combination& each : all) open.merge(pairs_of(each));
  std::vector<combination> chosen;
  while (!open.empty()) {
    const auto gain = [&](const combination& c) {
      return std::ranges::count_if(pairs_of(c), [&](const pair& p) { return open.contains(p); });
    };
    const combination best = *std::ranges::max_element(all, {}, gain);
    for (const pair& each : pairs_of(best)) open.erase(each);
    chosen.push_back(best);
  }
  return chosen;
}

class qcow2_matrix : public testing::Test {
 protected:
  struct subject {
    combination chosen;
    std::string path;
    std::string data_path;
    bytes base;
    bytes model;
  };

  std::string options_of(const subject& of) const {
    const combination& c = of.chosen;
    std::string text =
        "compat=" + choices[compat][c[compat]] + ",cluster_size=" + choices[cluster][c[cluster]];
    if (c[compat] == 1) return text;
    text += ",refcount_bits=" + choices[refcount][c[refcount]] +
            ",extended_l2=" + choices[subclusters][c[subclusters]];
    text += ",compression_type=" + choices[compressed][c[compressed]];
    if (c[data_file] != 0) text += ",data_file=" + of.data_path;
    if (c[data_file] == 2) text += ",data_file_raw=on";
    return text;
  }

  static task<outcome<std::unique_ptr<storage>>> storage_on(simulated_disk& disk) {
    std::unique_ptr<storage> made = std::make_unique<simulated_storage>(disk);
    co_return made;
  }

  void create_ours(const subject& of) {
    image_create_options options;
    options.virtual_size = of.model.size();
    std::string text = options_of(of) + ",";
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t comma = text.find(',', at);
      const std::size_t equals = text.find('=', at);
      options.options[text.substr(at, equals - at)] = text.substr(equals + 1, comma - equals - 1);
      at = comma + 1;
    }
    if (!of.base.empty()) options.backing = backing_reference{directory_ / "base", "raw", false};
    simulated_disk data;
    options.create_data_file = [&data](std::string, bool) { return storage_on(data); };
    simulated_disk disk;
    simulated_storage into(disk);
    const auto created = run(io_, qcow2_driver().create(into, options));
    ASSERT_TRUE(created.has_value()) << created.error().what;
    save_disk(disk, of.path);
    if (of.chosen[data_file] != 0) save_disk(data, of.data_path);
  }

  void create_theirs(const subject& of) {
    const std::string over = of.base.empty() ? "" : " -F raw -b " + directory_ / "base";
    must_run("qemu-img create -f qcow2 -o " + options_of(of) + over + " " + of.path + " " +
             std::to_string(of.model.size()));
  }

  /// Compressed clusters, while nothing is allocated.
  void compress_some(subject& of) {
    if (of.chosen[data_file] != 0) return;
    const std::uint64_t unit = std::stoull(choices[cluster][of.chosen[cluster]]);
    std::string commands;
    for (const std::uint64_t at : {std::uint64_t{0}, 3 * unit, 4 * unit}) {
      if (at + unit > of.model.size()) continue;
      commands += " -c 'write -c -P 77 " + std::to_string(at) + " " + std::to_string(unit) + "'";
      std::fill_n(of.model.begin() + static_cast<std::ptrdiff_t>(at), unit, std::byte{77});
    }
    must_run("qemu-io -f qcow2" + commands + " " + of.path);
  }

  byte_range draw_range(const subject& of) {
    const std::uint64_t sectors = of.model.size() / 512;
    const std::uint64_t first = random_() % sectors;
    const std::uint64_t longest = std::min<std::uint64_t>(sectors - first, random_() % 3 == 0 ? 600 : 12);
    return {first * 512, (1 + random_() % longest) * 512};
  }

  void write_theirs(subject& of) {
    std::string commands;
    for (int step = 0; step < 14; ++step) {
      const byte_range at = draw_range(of);
      const auto value = static_cast<unsigned>(random_() % 4 == 0 ? 0 : 1 + random_() % 250);
      const std::string unmap = random_() % 2 == 0 ? " -u" : "";
      commands += value == 0 ? " -c 'write -z" + unmap : " -c 'write -P " + std::to_string(value);
      commands += " " + std::to_string(at.offset) + " " + std::to_string(at.length) + "'";
      std::fill_n(of.model.begin() + static_cast<std::ptrdiff_t>(at.offset), at.length,
                  static_cast<std::byte>(value));
    }
    must_run("qemu-io -f qcow2" + commands + " " + of.path);
  }

  /// Our turn; `changes` 0 only reads.
  void visit(subject& of, int changes) {
    simulated_disk disk = disk_of(of.path);
    simulated_disk data;
    if (of.chosen[data_file] != 0) data = disk_of(of.data_path);
    image_open_options how{.writable = changes > 0};
    how.open_data_file = [&data](std::string, bool) { return storage_on(data); };
    auto opened = run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(disk), how));
    ASSERT_TRUE(opened.has_value()) << opened.error().what;
    image_driver driver(**opened, of.base);
    for (int step = 0; step < changes; ++step) change(of, driver);
    bytes got(of.model.size());
    const auto read = run(io_, driver.read(0, got));
    ASSERT_TRUE(read.has_value()) << read.error().message();
    const auto difference = std::ranges::mismatch(got, of.model);
    EXPECT_TRUE(difference.in1 == got.end()) << "we differ at " << (difference.in1 - got.begin());
    ASSERT_TRUE(run(io_, (*opened)->close()).has_value());
    if (changes == 0) return;
    save_disk(disk, of.path);
    if (of.chosen[data_file] != 0) save_disk(data, of.data_path);
  }

  void change(subject& of, image_driver& driver) {
    const byte_range at = draw_range(of);
    const auto value = static_cast<std::byte>(random_() % 4 == 0 ? 0 : 1 + random_() % 250);
    std::fill_n(of.model.begin() + static_cast<std::ptrdiff_t>(at.offset), at.length, value);
    const zero_mode mode = random_() % 2 == 0 ? zero_mode::may_punch : zero_mode::keep_allocated;
    const bytes content(static_cast<std::size_t>(at.length), value);
    const auto done =
        value == std::byte{0} ? run(io_, driver.zero(at, mode)) : run(io_, driver.write(at.offset, content));
    EXPECT_TRUE(done.has_value()) << done.error().message();
    if (random_() % 5 == 0) {
      EXPECT_TRUE(run(io_, driver.flush()).has_value());
    }
  }

  void expect_clean(const subject& of, const char* when) {
    SCOPED_TRACE(when);
    must_run("qemu-img check -f qcow2 " + of.path);
    const qcow2_report report = check_qcow2(file_bytes(of.path));
    EXPECT_TRUE(report.errors.empty() && report.leaked_clusters == 0) << report.text();
    EXPECT_TRUE(guest_bytes(of.path, "qcow2") == of.model) << "QEMU reads something else";
    if (of.chosen[data_file] == 2) {
      bytes raw = file_bytes(of.data_path);
      raw.resize(of.model.size());
      EXPECT_TRUE(raw == of.model) << "the data file is not the disk";
    }
  }

  subject make_subject(const combination& chosen) {
    subject made{chosen, directory_ / "image", directory_ / "data", {}, {}};
    made.model.resize(std::stoull(choices[size][chosen[size]]));
    if (chosen[backing] == 1) {
      made.base.resize(made.model.size() / 3 * 2 / 512 * 512);
      for (std::byte& each : made.base) each = static_cast<std::byte>(random_());
      write_file(directory_ / "base", made.base);
      std::ranges::copy(made.base, made.model.begin());
    }
    return made;
  }

  temporary_directory directory_;
  boost::asio::io_context io_;
  std::mt19937_64 random_{17};
};

TEST_F(qcow2_matrix, both_write_and_both_read) {
  const std::vector<combination> cover = pairwise_cover();
  ASSERT_GE(cover.size(), 15U);
  for (std::size_t index = 0; index < cover.size() && !HasFailure(); ++index) {
    subject of = make_subject(cover[index]);
    SCOPED_TRACE(options_of(of) + ", size " + std::to_string(of.model.size()) +
                 (of.base.empty() ? "" : ", backing"));
    must_run("rm -f " + of.path + " " + of.data_path);
    index % 2 == 0 ? create_theirs(of) : create_ours(of);
    compress_some(of);
    ASSERT_NO_FATAL_FAILURE(visit(of, 14));
    expect_clean(of, "after our turn");
    write_theirs(of);
    ASSERT_NO_FATAL_FAILURE(visit(of, 14));
    expect_clean(of, "after theirs and ours");
    write_theirs(of);
    ASSERT_NO_FATAL_FAILURE(visit(of, 0));
  }
}

}  // namespace
}  // namespace weir::test
