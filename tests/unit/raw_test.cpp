#include "formats/raw/raw.hpp"

#include "engine/storage/memory_storage.hpp"
#include "engine/storage/slice_storage.hpp"
#include "tests/support/image_driver.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

namespace weir {
namespace {

using test::image_driver;
using test::run;

class raw_test : public testing::Test {
 protected:
  ~raw_test() override {
    if (image_) run(io_, image_->close()).value();
  }

  void open(std::uint64_t size, bool writable = true) {
    auto file = std::make_unique<memory_storage>("disk.raw", size);
    file_ = file.get();
    open(std::move(file), writable);
  }
  void open(std::unique_ptr<storage> file, bool writable) {
    image_ = run(io_, raw_driver().open(std::move(file), {.writable = writable})).value();
  }
  extent map(byte_range range, map_effort effort) {
    return run(io_, image_->map(range, effort)).value().extent;
  }

  boost::asio::io_context io_;
  memory_storage* file_ = nullptr;
  std::unique_ptr<image> image_;
};

TEST_F(raw_test, everything_is_data_in_place_without_io) {
  open(10 * MiB);
  const auto found = image_->try_map({5, 10 * MiB - 5}, map_effort::locate);
  ASSERT_TRUE(found && *found);
  EXPECT_EQ((*found)->extent.kind, extent_kind::data);
  EXPECT_TRUE((*found)->extent.in_place);
  EXPECT_EQ((*found)->extent.host_offset, 5U);
  EXPECT_EQ((*found)->extent.length, 10 * MiB - 5);
}

TEST_F(raw_test, opened_for_reading_nothing_is_in_place) {
  open(MiB, false);
  EXPECT_FALSE(map({0, MiB}, map_effort::locate).in_place);
  EXPECT_EQ(run(io_, image_->zero({0, 512}, zero_mode::may_punch)).error(), make_error_code(errc::read_only));
}

TEST_F(raw_test, status_tells_holes_as_zero) {
  open(MiB);
  const std::vector<std::byte> data(64 * KiB, std::byte{1});
  run(io_, file_->write(128 * KiB, data)).value();
  const extent hole = map({0, MiB}, map_effort::status);
  EXPECT_EQ(hole.kind, extent_kind::zero);
  EXPECT_EQ(hole.length, 128 * KiB);
  const extent full = map({128 * KiB, MiB - 128 * KiB}, map_effort::status);
  EXPECT_EQ(full.kind, extent_kind::data);
  EXPECT_EQ(full.length, 64 * KiB);
  EXPECT_EQ(full.host_offset, 128 * KiB);
}

TEST_F(raw_test, an_odd_length_is_rounded_up_with_a_zero_tail) {
  open(1000);
  EXPECT_EQ(image_->virtual_size(), 1024U);
  EXPECT_EQ(map({1000, 24}, map_effort::status).kind, extent_kind::zero);
  std::vector<std::byte> bytes(24, std::byte{0xff});
  image_driver driver(*image_);
  run(io_, driver.read(1000, bytes)).value();
  EXPECT_EQ(bytes, std::vector<std::byte>(24));
  EXPECT_EQ(file_->size(), 1000U);
}

TEST_F(raw_test, zeroing_or_discarding_the_tail_does_not_grow_the_file) {
  open(1000);
  run(io_, image_->zero({900, 124}, zero_mode::keep_allocated)).value();
  run(io_, image_->discard({900, 124})).value();
  run(io_, image_->zero({1000, 24}, zero_mode::may_punch)).value();
  EXPECT_EQ(file_->size(), 1000U);
}

TEST_F(raw_test, a_write_into_the_tail_grows_the_file) {
  open(1000);
  image_driver driver(*image_);
  const std::vector<std::byte> data(10, std::byte{7});
  run(io_, driver.write(1005, data)).value();
  EXPECT_EQ(file_->size(), 1015U);
  EXPECT_EQ(image_->virtual_size(), 1024U);
  std::vector<std::byte> bytes(10);
  run(io_, driver.read(1005, bytes)).value();
  EXPECT_EQ(bytes, data);
}

TEST_F(raw_test, a_write_into_the_tail_of_what_cannot_grow_is_out_of_space) {
  auto slice = run(io_, open_slice(std::make_unique<memory_storage>("outer", MiB), {0, 1000})).value();
  open(std::move(slice), true);
  EXPECT_EQ(image_->virtual_size(), 1024U);
  const extent inside = map({990, 34}, map_effort::locate);
  EXPECT_EQ(inside.length, 10U);
  EXPECT_EQ(map({1000, 24}, map_effort::locate).kind, extent_kind::zero);
  image_driver driver(*image_);
  const std::vector<std::byte> data(34, std::byte{7});
  EXPECT_EQ(run(io_, driver.write(990, data)).error(), errno_code(ENOSPC));
}

TEST_F(raw_test, has_no_allocation_and_no_backing) {
  open(MiB);
  EXPECT_EQ(run(io_, image_->allocate({0, 512})).error(), make_error_code(errc::not_supported));
  EXPECT_EQ(run(io_, image_->set_backing(backing_reference{"b", "raw", false})).error(),
            make_error_code(errc::not_supported));
  EXPECT_FALSE(image_->backing());
}

TEST(raw_open, refuses_to_write_a_read_only_storage) {
  class read_only_storage : public storage {
   public:
    const std::string& location() const noexcept override { return location_; }
    const storage_capabilities& capabilities() const noexcept override { return capabilities_; }
    std::uint64_t size() const noexcept override { return 512; }
    std::optional<int> descriptor() const noexcept override { return std::nullopt; }
    void note_descriptor_write(byte_range) noexcept override {}
    std::optional<identity_type> identity() const noexcept override { return std::nullopt; }

   private:
    task<result<void>> do_read(std::uint64_t, std::span<std::byte>) override { co_return result<void>{}; }
    task<result<void>> do_write(std::uint64_t, std::span<const std::byte>) override {
      co_return errc::closed;
    }
    task<result<void>> do_flush() override { co_return result<void>{}; }
    task<result<void>> do_zero(byte_range, zero_mode) override { co_return errc::closed; }
    task<result<void>> do_discard(byte_range) override { co_return errc::closed; }
    task<result<void>> do_truncate(std::uint64_t) override { co_return errc::closed; }
    task<result<storage_run>> do_status(byte_range) override { co_return errc::closed; }
    task<result<void>> do_close() override { co_return result<void>{}; }
    std::string location_ = "locked.raw";
    storage_capabilities capabilities_;
  };
  boost::asio::io_context io;
  const auto opened = run(io, raw_driver().open(std::make_unique<read_only_storage>(), {.writable = true}));
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, make_error_code(errc::read_only));
}

class raw_create_test : public testing::Test {
 protected:
  outcome<void> create(std::uint64_t size, std::map<std::string, std::string> options = {}) {
    return run(io_, raw_driver().create(file_, {.virtual_size = size, .backing = {}, .options = options}));
  }
  bool is_hole(std::uint64_t offset) { return run(io_, file_.status({offset, 1})).value().hole; }

  boost::asio::io_context io_;
  memory_storage file_{"new.raw"};
};

TEST_F(raw_create_test, makes_a_hole_of_whole_sectors) {
  create(MiB + 1).value();
  EXPECT_EQ(file_.size(), MiB + 512);
  EXPECT_TRUE(is_hole(0));
}

TEST_F(raw_create_test, full_preallocation_writes_every_byte) {
  create(3 * MiB, {{"preallocation", "full"}}).value();
  EXPECT_EQ(file_.size(), 3 * MiB);
  EXPECT_FALSE(is_hole(0));
  EXPECT_FALSE(is_hole(3 * MiB - 1));
}

TEST_F(raw_create_test, refuses_what_it_does_not_know_by_name) {
  EXPECT_NE(create(MiB, {{"cluster_size", "64K"}}).error().what.find("cluster_size"), std::string::npos);
  EXPECT_NE(create(MiB, {{"preallocation", "metadata"}}).error().what.find("metadata"), std::string::npos);
  EXPECT_FALSE(create(~std::uint64_t{0}));
}

}  // namespace
}  // namespace weir
