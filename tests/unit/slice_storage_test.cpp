#include "engine/storage/slice_storage.hpp"

#include "engine/storage/memory_storage.hpp"
#include "tests/support/run_task.hpp"

#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

namespace weir {
namespace {

using test::run;

class slice_storage_test : public testing::Test {
 protected:
  slice_storage_test() {
    auto outer = std::make_unique<memory_storage>("outer");
    outer_ = outer.get();
    const std::vector<std::byte> filler(2 * MiB, std::byte{0x5a});
    run(io_, outer_->write(0, filler)).value();
    slice_ = run(io_, open_slice(std::move(outer), window_)).value();
  }
  ~slice_storage_test() override { run(io_, slice_->close()).value(); }

  std::vector<std::byte> outer_bytes(std::uint64_t offset, std::size_t length) {
    std::vector<std::byte> bytes(length);
    run(io_, outer_->read(offset, bytes)).value();
    return bytes;
  }

  static constexpr byte_range window_{64 * KiB, 128 * KiB + 100};
  boost::asio::io_context io_;
  memory_storage* outer_ = nullptr;
  std::unique_ptr<storage> slice_;
};

TEST_F(slice_storage_test, has_the_windows_length_and_does_not_grow) {
  EXPECT_EQ(slice_->size(), window_.length);
  EXPECT_FALSE(slice_->capabilities().can_grow);
  const std::vector<std::byte> data(200);
  EXPECT_EQ(run(io_, slice_->write(window_.length - 100, data)).error(), errno_code(ENOSPC));
  EXPECT_EQ(run(io_, slice_->truncate(1)).error(), make_error_code(errc::not_supported));
  EXPECT_EQ(outer_bytes(window_.end() - 100, 200), std::vector<std::byte>(200, std::byte{0x5a}));
}

TEST_F(slice_storage_test, writes_and_zeroes_inside_the_window_only) {
  const std::vector<std::byte> data(50, std::byte{0x11});
  run(io_, slice_->write(0, data)).value();
  EXPECT_EQ(outer_bytes(window_.offset, 50), data);
  EXPECT_EQ(outer_bytes(window_.offset - 1, 1), std::vector<std::byte>(1, std::byte{0x5a}));
  run(io_, slice_->zero({window_.length - 10, 10}, zero_mode::may_punch)).value();
  EXPECT_EQ(outer_bytes(window_.end() - 10, 10), std::vector<std::byte>(10));
  EXPECT_EQ(outer_bytes(window_.end(), 1), std::vector<std::byte>(1, std::byte{0x5a}));
}

TEST_F(slice_storage_test, a_discard_past_the_end_is_clipped_to_the_window) {
  run(io_, slice_->discard({window_.length - 100, MiB})).value();
  EXPECT_EQ(outer_bytes(window_.end(), 1), std::vector<std::byte>(1, std::byte{0x5a}));
}

TEST_F(slice_storage_test, reads_zero_past_its_end_not_what_follows_the_window) {
  std::vector<std::byte> bytes(8, std::byte{0xff});
  run(io_, slice_->read(window_.length - 4, bytes)).value();
  EXPECT_EQ(bytes[3], std::byte{0x5a});
  EXPECT_EQ(bytes[4], std::byte{0});
  run(io_, slice_->read(window_.length + 5, bytes)).value();
  EXPECT_EQ(bytes, std::vector<std::byte>(8));
}

TEST_F(slice_storage_test, status_is_the_windows) {
  run(io_, outer_->zero({window_.offset, 64 * KiB}, zero_mode::may_punch)).value();
  const storage_run hole = run(io_, slice_->status({0, window_.length})).value();
  EXPECT_TRUE(hole.hole);
  EXPECT_EQ(hole.length, 64 * KiB);
  const storage_run data = run(io_, slice_->status({64 * KiB, MiB})).value();
  EXPECT_FALSE(data.hole);
  EXPECT_EQ(data.length, window_.length - 64 * KiB);
}

TEST(open_slice, refuses_a_window_outside_the_storage) {
  boost::asio::io_context io;
  for (const byte_range window :
       {byte_range{1, 4096}, byte_range{4097, 0}, byte_range{~std::uint64_t{0}, 2}}) {
    const auto opened = run(io, open_slice(std::make_unique<memory_storage>("short", 4096), window));
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, make_error_code(errc::out_of_range));
    EXPECT_NE(opened.error().what.find("short"), std::string::npos);
  }
}

}  // namespace
}  // namespace weir
