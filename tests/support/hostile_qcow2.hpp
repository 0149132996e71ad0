// A small sound qcow2 image on a simulated disk, for tests that damage it.
#pragma once

#include "engine/base/endian.hpp"
#include "engine/block/bitmap_store.hpp"
#include "engine/block/snapshot_store.hpp"
#include "engine/storage/simulated_storage.hpp"
#include "formats/qcow2/qcow2.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace weir::test {

class hostile_qcow2 : public testing::Test {
 protected:
  using bytes = std::vector<std::byte>;
  static constexpr std::uint64_t cluster = 4096;
  static constexpr std::uint64_t disk_bytes = 4 * MiB;

  hostile_qcow2() {
    image_create_options options;
    options.virtual_size = disk_bytes;
    options.options["cluster_size"] = std::to_string(cluster);
    simulated_storage into(disk_);
    EXPECT_TRUE(run(io_, qcow2_driver().create(into, options)).has_value());
    disk_.settle_all();
  }

  outcome<std::unique_ptr<image>> try_open(image_open_options options) {
    return run(io_, qcow2_driver().open(std::make_unique<simulated_storage>(disk_), options));
  }
  std::unique_ptr<image> open(image_open_options options) {
    auto opened = try_open(std::move(options));
    EXPECT_TRUE(opened.has_value()) << (opened ? "" : opened.error().what);
    return opened ? std::move(*opened) : nullptr;
  }
  void close(image& opened) {
    EXPECT_TRUE(run(io_, opened.close()).has_value());
    disk_.settle_all();
  }
  void fill(image& opened, std::uint64_t offset, std::uint64_t length, std::byte value) {
    image_driver driver(opened);
    const bytes data(static_cast<std::size_t>(length), value);
    EXPECT_TRUE(run(io_, driver.write(offset, data)).has_value());
  }
  void expect_readable(const image_open_options& options) {
    const auto opened = open(options);
    ASSERT_NE(opened, nullptr);
    image_driver driver(*opened);
    bytes all(static_cast<std::size_t>(disk_bytes));
    EXPECT_TRUE(run(io_, driver.read(0, all)).has_value());
    close(*opened);
  }

  template <class Number>
  Number number(std::uint64_t at) const {
    bytes raw(sizeof(Number));
    disk_.visible().read(at, raw);
    return load_big<Number>(raw.data());
  }
  template <class Number>
  void put(std::uint64_t at, Number value) {
    bytes raw(sizeof(Number));
    store_big(raw.data(), value);
    disk_.load(at, raw);
  }
  bytes content() const {
    bytes all(static_cast<std::size_t>(disk_.size()));
    disk_.visible().read(0, all);
    return all;
  }

  boost::asio::io_context io_;
  simulated_disk disk_;
};

}  // namespace weir::test
