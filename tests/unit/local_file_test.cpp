#include "engine/storage/local_file.hpp"

#include "engine/storage/file_descriptor.hpp"
#include "tests/support/run_task.hpp"
#include "tests/support/temporary_directory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <random>
#include <tuple>
#include <vector>

namespace weir {
namespace {

using bytes = std::vector<std::byte>;

bytes filled(std::size_t length, int value) {
  return bytes(length, static_cast<std::byte>(value));
}

bytes file_content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> all((std::istreambuf_iterator<char>(file)), {});
  bytes content(all.size());
  std::memcpy(content.data(), all.data(), all.size());
  return content;
}

struct workshop {
  explicit workshop(aio_mode mode = aio_mode::automatic)
      : files(make_file_io(io.get_executor(), workers, mode).value()) {}

  outcome<std::unique_ptr<storage>> open(const std::string& path, local_file_options options) {
    return test::run(io, open_local_file(*files, path, options));
  }

  boost::asio::io_context io{1};
  worker_pool workers{io.get_executor(), 2};
  std::unique_ptr<file_io> files;
};

// Every kind of access there is: how the system is asked, cache mode, on a disk or in memory.
class local_file_test : public ::testing::TestWithParam<std::tuple<aio_mode, cache_mode, const char*>>,
                        protected workshop {
 protected:
  local_file_test() : workshop(std::get<0>(GetParam())) {}

  std::unique_ptr<storage> open_it(local_file_options options) {
    options.cache = std::get<1>(GetParam());
    outcome<std::unique_ptr<storage>> opened = open(path, options);
    EXPECT_TRUE(opened) << opened.error().what;
    return opened ? std::move(*opened) : nullptr;
  }
  bool is_direct() const {
    const cache_mode cache = std::get<1>(GetParam());
    return cache == cache_mode::none || cache == cache_mode::directsync;
  }

  test::temporary_directory directory{std::get<2>(GetParam())};
  std::string path = directory / "file";
};

std::string access_name(const ::testing::TestParamInfo<local_file_test::ParamType>& tested) {
  const auto [mode, cache, parent] = tested.param;
  std::string name = mode == aio_mode::threads ? "threads_" : "io_uring_";
  name += cache == cache_mode::writeback ? "writeback" : "";
  name += cache == cache_mode::none ? "none" : "";
  name += cache == cache_mode::directsync ? "directsync" : "";
  name += cache == cache_mode::unsafe ? "unsafe" : "";
  return name + (std::string_view(parent) == "/dev/shm" ? "_memory" : "_disk");
}

INSTANTIATE_TEST_SUITE_P(disk, local_file_test,
                         ::testing::Combine(::testing::Values(aio_mode::io_uring, aio_mode::threads),
                                            ::testing::Values(cache_mode::writeback, cache_mode::none,
                                                              cache_mode::directsync, cache_mode::unsafe),
                                            ::testing::Values("/var/tmp")),
                         access_name);
INSTANTIATE_TEST_SUITE_P(memory, local_file_test,
                         ::testing::Combine(::testing::Values(aio_mode::io_uring, aio_mode::threads),
                                            ::testing::Values(cache_mode::writeback, cache_mode::unsafe),
                                            ::testing::Values("/dev/shm")),
                         access_name);

// Random operations of any alignment against a byte array.
class oracle {
 public:
  oracle(boost::asio::io_context& io, storage& tested, unsigned seed)
      : io_(io), tested_(tested), random_(seed) {}

  void step() {
    switch (draw(0, 9)) {
      case 0:
      case 1:
      case 2:
        return write();
      case 3:
      case 4:
      case 5:
        return read();
      case 6:
        return zero();
      case 7:
        return discard();
      case 8:
        return draw(0, 3) == 0 ? truncate() : status();
      default:
        EXPECT_TRUE(test::run(io_, tested_.flush()));
    }
  }

  const bytes& content() const { return content_; }

 private:
  static constexpr std::size_t longest_file = 300'000;

  std::size_t draw(std::size_t least, std::size_t most) {
    return std::uniform_int_distribution<std::size_t>(least, most)(random_);
  }
  // Small, block-sized and long; aligned and not.
  byte_range draw_range() {
    byte_range range{draw(0, longest_file), draw(1, draw(0, 3) == 0 ? 150'000 : 6000)};
    if (draw(0, 2) == 0) range = align_outward(range, draw(0, 1) == 0 ? 4096 : 512);
    return range;
  }
  void grow(std::size_t end) { content_.resize(std::max(content_.size(), end)); }

  void write() {
    const byte_range range = draw_range();
    bytes data(range.length + 1);
    for (std::byte& each : data) each = static_cast<std::byte>(random_());
    const std::span<const std::byte> part = std::span(data).subspan(draw(0, 1), range.length);
    ASSERT_TRUE(test::run(io_, tested_.write(range.offset, part)));
    grow(range.end());
    std::memcpy(content_.data() + range.offset, part.data(), range.length);
    EXPECT_EQ(tested_.size(), content_.size());
  }
  void read() {
    const byte_range range = draw_range();
    bytes back(range.length, std::byte{0xee});
    ASSERT_TRUE(test::run(io_, tested_.read(range.offset, back)));
    bytes expected(range.length);
    const byte_range known = intersection(range, {0, content_.size()});
    if (!known.empty()) std::memcpy(expected.data(), content_.data() + known.offset, known.length);
    EXPECT_TRUE(back == expected) << "at " << range.offset << " + " << range.length;
  }
  void zero() {
    const byte_range range = draw_range();
    const zero_mode mode = draw(0, 1) == 0 ? zero_mode::may_punch : zero_mode::keep_allocated;
    const result<void> done = test::run(io_, tested_.zero(range, mode));
    ASSERT_TRUE(done) << done.error().message();
    grow(range.end());
    std::fill_n(content_.begin() + static_cast<std::ptrdiff_t>(range.offset), range.length, std::byte{0});
    EXPECT_EQ(tested_.size(), content_.size());
  }
  void discard() {
    const byte_range range = draw_range();
    ASSERT_TRUE(test::run(io_, tested_.discard(range)));
    const byte_range known = intersection(range, {0, content_.size()});
    if (known.empty()) return;
    bytes left(known.length);
    ASSERT_TRUE(test::run(io_, tested_.read(known.offset, left)));
    for (std::size_t at = 0; at < left.size(); ++at) {
      std::byte& before = content_[known.offset + at];
      EXPECT_TRUE(left[at] == before || left[at] == std::byte{0});
      before = left[at];
    }
  }
  void truncate() {
    const std::size_t length = draw(0, longest_file);
    ASSERT_TRUE(test::run(io_, tested_.truncate(length)));
    content_.resize(length);
    EXPECT_EQ(tested_.size(), length);
  }
  void status() {
    if (content_.empty()) return;
    const std::size_t offset = draw(0, content_.size() - 1);
    const result<storage_run> run = test::run(io_, tested_.status({offset, longest_file}));
    ASSERT_TRUE(run);
    ASSERT_GT(run->length, 0U);
    ASSERT_LE(offset + run->length, content_.size());
    for (std::size_t at = offset; run->hole && at < offset + run->length; ++at) {
      ASSERT_EQ(content_[at], std::byte{0});
    }
  }

  boost::asio::io_context& io_;
  storage& tested_;
  std::mt19937 random_;
  bytes content_;
};

TEST_P(local_file_test, does_what_a_byte_array_does) {
  for (unsigned seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(seed);
    const std::unique_ptr<storage> tested = open_it({.create = true});
    ASSERT_NE(tested, nullptr);
    oracle model(io, *tested, seed);
    for (int step = 0; step < 250 && !HasFailure(); ++step) model.step();
    ASSERT_TRUE(test::run(io, tested->flush()));
    ASSERT_TRUE(test::run(io, tested->close()));
    EXPECT_TRUE(file_content(path) == model.content()) << "file and model differ";
    ASSERT_EQ(::unlink(path.c_str()), 0);
  }
}

task<void> write_piece(storage& to, std::uint64_t offset, std::size_t length, std::byte value, int& left) {
  const bytes data(length, value);
  const result<void> done = co_await to.write(offset, data);
  EXPECT_TRUE(done);
  --left;
}

task<void> zero_piece(storage& to, std::uint64_t offset, std::size_t length, int& left) {
  const byte_range range{offset, length};
  const result<void> done = co_await to.zero(range, zero_mode::may_punch);
  EXPECT_TRUE(done);
  --left;
}

// Neighbours in one block, all at once, growing the file and not: each must find its own bytes afterwards.
TEST_P(local_file_test, changes_of_one_block_do_not_undo_each_other) {
  const std::unique_ptr<storage> tested = open_it({.create = true});
  ASSERT_NE(tested, nullptr);
  constexpr std::size_t piece = 100;
  constexpr int piece_count = 500;
  bytes expected = filled(piece * piece_count + 20'480, 0);
  for (int round = 0; round < 3; ++round) {
    int left = piece_count + 1;
    for (int index = piece_count - 1; index >= 0; --index) {
      const std::size_t offset = static_cast<std::size_t>(index) * piece;
      const auto value = static_cast<std::byte>(index + round + 1);
      const bool zeroes = (index + round) % 7 == 0;
      std::fill_n(expected.begin() + static_cast<std::ptrdiff_t>(offset), piece,
                  zeroes ? std::byte{0} : value);
      if (zeroes) {
        test::start(io, zero_piece(*tested, offset, piece, left));
      } else {
        test::start(io, write_piece(*tested, offset, piece, value, left));
      }
    }
    const auto last = static_cast<std::byte>(0xa0 + round);
    test::start(io, write_piece(*tested, expected.size() - 20'480, 20'480, last, left));
    std::fill(expected.end() - 20'480, expected.end(), last);
    io.restart();
    io.run();
    ASSERT_EQ(left, 0);
    EXPECT_TRUE(file_content(path) == expected) << "round " << round;
  }
  ASSERT_TRUE(test::run(io, tested->close()));
}

TEST_P(local_file_test, written_zeros_take_no_space_unless_asked_to) {
  const std::unique_ptr<storage> tested = open_it({.create = true});
  ASSERT_NE(tested, nullptr);
  const auto allocated = [this] {
    struct stat status{};
    EXPECT_EQ(::stat(path.c_str(), &status), 0);
    return static_cast<std::uint64_t>(status.st_blocks) * 512;
  };
  ASSERT_TRUE(test::run(io, tested->zero({0, 8 * MiB}, zero_mode::may_punch)));
  EXPECT_EQ(tested->size(), 8 * MiB);
  EXPECT_LE(allocated(), 64 * KiB);
  ASSERT_TRUE(test::run(io, tested->write(1 * MiB, filled(1 * MiB, 1))));
  ASSERT_TRUE(test::run(io, tested->flush()));
  EXPECT_GE(allocated(), 1 * MiB);
  ASSERT_TRUE(test::run(io, tested->discard({1 * MiB, 1 * MiB})));
  EXPECT_LE(allocated(), 64 * KiB);
  ASSERT_TRUE(test::run(io, tested->zero({0, 2 * MiB}, zero_mode::keep_allocated)));
  EXPECT_GE(allocated(), 2 * MiB);
  ASSERT_TRUE(test::run(io, tested->close()));
}

TEST_P(local_file_test, tells_holes_from_data) {
  {
    const file_descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT, 0600));
    ASSERT_EQ(::ftruncate(file.get(), 100 * MiB - 7), 0);
    const bytes data = filled(64 * KiB, 1);
    for (std::uint64_t at = 1 * MiB; at < 100 * MiB; at += 1 * MiB) {
      ASSERT_EQ(::pwrite(file.get(), data.data(), data.size(), static_cast<off_t>(at)), 65536);
    }
  }
  for (const bool writable : {false, true}) {
    const std::unique_ptr<storage> tested = open_it({.writable = writable});
    ASSERT_NE(tested, nullptr);
    EXPECT_TRUE(tested->capabilities().reports_holes);
    const std::uint64_t end = tested->size();
    std::uint64_t at = 0;
    while (at < end) {
      const result<storage_run> run = test::run(io, tested->status({at, end}));
      ASSERT_TRUE(run);
      EXPECT_EQ(run->hole, at % MiB != 0 || at == 0) << at;
      const std::uint64_t next = at == 0 ? MiB : run->hole ? align_up(at, MiB) : at + 64 * KiB;
      ASSERT_EQ(at + run->length, std::min(next, end)) << at;
      at += run->length;
    }
    const result<storage_run> run = test::run(io, tested->status({1 * MiB + 5, 10}));
    ASSERT_TRUE(run);
    EXPECT_FALSE(run->hole);
    EXPECT_EQ(run->length, 10U);
    ASSERT_TRUE(test::run(io, tested->close()));
  }
}

TEST_P(local_file_test, lends_its_descriptor_only_where_any_alignment_is_served) {
  const std::unique_ptr<storage> tested = open_it({.create = true});
  ASSERT_NE(tested, nullptr);
  EXPECT_EQ(tested->descriptor().has_value(), !is_direct());
  EXPECT_EQ(tested->capabilities().alignment > 1, is_direct());
  if (tested->descriptor()) {
    const bytes data = filled(1000, 3);
    ASSERT_EQ(::pwrite(*tested->descriptor(), data.data(), data.size(), 500), 1000);
    tested->note_descriptor_write({500, 1000});
    EXPECT_EQ(tested->size(), 1500U);
    bytes back(1000);
    ASSERT_TRUE(test::run(io, tested->read(500, back)));
    EXPECT_EQ(back, data);
  }
  ASSERT_TRUE(test::run(io, tested->close()));
}

class local_file_open_test : public ::testing::Test, protected workshop {
 protected:
  failure refused(const std::string& name, local_file_options options = {}) {
    outcome<std::unique_ptr<storage>> opened = open(name, options);
    EXPECT_FALSE(opened) << name;
    return opened ? failure{} : opened.error();
  }
  void make_file(const std::string& name, std::size_t length) {
    const bytes data = filled(length, 1);
    std::ofstream(name).write(reinterpret_cast<const char*>(data.data()),
                              static_cast<std::streamsize>(data.size()));
  }

  test::temporary_directory directory;
  std::string path = directory / "file";
};

TEST_F(local_file_open_test, refuses_by_name_what_is_no_image) {
  EXPECT_EQ(refused(path).what, path + ": No such file or directory");
  EXPECT_EQ(refused(path).code, errno_code(ENOENT));
  EXPECT_EQ(refused(directory.path()).what, directory.path() + ": is a directory");
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(refused(path).what, path + ": is a FIFO, not a file or block device");
  EXPECT_EQ(refused(path, {.writable = true}).code, errc::not_supported);
  const std::string socket_path = directory / "socket";
  const file_descriptor socket(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{AF_UNIX, {}};
  ASSERT_LT(socket_path.size(), sizeof address.sun_path);
  std::strcpy(address.sun_path, socket_path.c_str());
  ASSERT_EQ(::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(refused(socket_path).what, socket_path + ": is a socket, not a file or block device");
  EXPECT_EQ(refused("fd:" + std::to_string(socket.get())).what,
            "fd:" + std::to_string(socket.get()) + ": is a socket, not a file or block device");
  EXPECT_EQ(refused("/dev/null").what, "/dev/null: is a character device, not a file or block device");
}

TEST_F(local_file_open_test, creates_only_what_does_not_exist) {
  outcome<std::unique_ptr<storage>> created = open(path, {.create = true});
  ASSERT_TRUE(created);
  EXPECT_TRUE((*created)->capabilities().writable);
  ASSERT_TRUE(test::run(io, (*created)->close()));
  EXPECT_EQ(refused(path, {.create = true}).what, path + ": File exists");
}

TEST_F(local_file_open_test, one_writer_or_many_readers) {
  make_file(path, 1000);
  outcome<std::unique_ptr<storage>> first = open(path, {});
  outcome<std::unique_ptr<storage>> second = open(path, {});
  ASSERT_TRUE(first);
  ASSERT_TRUE(second);
  const failure error = refused(path, {.writable = true});
  EXPECT_EQ(error.code, errc::image_in_use);
  EXPECT_EQ(error.what,
            path +
                ": image is in use by another process (failed to get \"write\" lock); stop whatever "
                "has it open, or work on a copy");
  ASSERT_TRUE(test::run(io, (*first)->close()));
  ASSERT_TRUE(test::run(io, (*second)->close()));
  outcome<std::unique_ptr<storage>> writer = open(path, {.writable = true});
  ASSERT_TRUE(writer);
  EXPECT_NE(refused(path).what.find("failed to get shared \"write\" lock"), std::string::npos);
  outcome<std::unique_ptr<storage>> tolerant = open(path, {.locking = image_locking::off});
  ASSERT_TRUE(tolerant);
  ASSERT_TRUE(test::run(io, (*tolerant)->close()));
  EXPECT_EQ((*writer)->identity(), (*tolerant)->identity());
  ASSERT_TRUE(test::run(io, (*writer)->close()));
}

TEST_F(local_file_open_test, a_passed_descriptor_is_used_as_it_is) {
  make_file(path, 1000);
  const file_descriptor file(::open(path.c_str(), O_RDWR));
  const std::string name = "fd:" + std::to_string(file.get());
  outcome<std::unique_ptr<storage>> opened = open(name, {.writable = true});
  ASSERT_TRUE(opened) << opened.error().what;
  EXPECT_EQ((*opened)->location(), name);
  ASSERT_TRUE(test::run(io, (*opened)->write(2000, filled(10, 2))));
  EXPECT_EQ((*opened)->size(), 2010U);
  EXPECT_EQ(refused(path, {.writable = true}).code, errc::image_in_use);
  ASSERT_TRUE(test::run(io, (*opened)->close()));
  EXPECT_GE(::fcntl(file.get(), F_GETFD), 0) << "the caller's own stays open";
  outcome<std::unique_ptr<storage>> again = open(path, {.writable = true});
  ASSERT_TRUE(again) << "closing drops the locks though the open file lives on: " << again.error().what;
  ASSERT_TRUE(test::run(io, (*again)->close()));
}

TEST_F(local_file_open_test, refuses_descriptors_that_cannot_do_what_is_asked) {
  make_file(path, 1000);
  const auto name = [](const file_descriptor& file) { return "fd:" + std::to_string(file.get()); };
  const file_descriptor reader(::open(path.c_str(), O_RDONLY));
  EXPECT_EQ(refused(name(reader), {.writable = true}).code, errc::read_only);
  const file_descriptor writer(::open(path.c_str(), O_WRONLY));
  EXPECT_EQ(refused(name(writer)).what, name(writer) + ": the descriptor cannot read");
  const file_descriptor appender(::open(path.c_str(), O_RDWR | O_APPEND));
  EXPECT_EQ(refused(name(appender), {.writable = true}).code, errno_code(EINVAL));
  EXPECT_EQ(refused("fd:12345").what, "fd:12345: Bad file descriptor");
  for (const char* nonsense : {"fd:", "fd:-1", "fd:3x", "fd:99999999999"}) {
    EXPECT_EQ(refused(nonsense).what, std::string(nonsense) + ": is not fd: and the number of a descriptor");
  }
}

TEST_F(local_file_open_test, what_cannot_grow_is_never_grown) {
  const file_descriptor memory(::memfd_create("fixed", MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(memory.get(), 10'000), 0);
  ASSERT_EQ(::fcntl(memory.get(), F_ADD_SEALS, F_SEAL_GROW), 0);
  outcome<std::unique_ptr<storage>> opened = open("fd:" + std::to_string(memory.get()), {.writable = true});
  ASSERT_TRUE(opened) << opened.error().what;
  storage& fixed = **opened;
  EXPECT_FALSE(fixed.capabilities().can_grow);
  EXPECT_TRUE(test::run(io, fixed.write(9990, filled(10, 1))));
  EXPECT_EQ(test::run(io, fixed.write(9990, filled(11, 1))).error(), errno_code(ENOSPC));
  EXPECT_EQ(test::run(io, fixed.zero({9000, 5000}, zero_mode::may_punch)).error(), errno_code(ENOSPC));
  EXPECT_EQ(test::run(io, fixed.truncate(5000)).error(), errc::not_supported);
  EXPECT_EQ(fixed.size(), 10'000U);
  ASSERT_TRUE(test::run(io, fixed.close()));
}

TEST_F(local_file_open_test, a_passed_descriptor_with_o_direct_is_served_at_any_alignment) {
  make_file(path, 10'001);
  const file_descriptor file(::open(path.c_str(), O_RDWR | O_DIRECT));
  ASSERT_TRUE(file) << "no O_DIRECT below " << directory.path();
  outcome<std::unique_ptr<storage>> opened = open("fd:" + std::to_string(file.get()), {.writable = true});
  ASSERT_TRUE(opened) << opened.error().what;
  EXPECT_EQ((*opened)->descriptor(), std::nullopt);
  ASSERT_TRUE(test::run(io, (*opened)->write(9999, filled(1, 2))));
  bytes back(3);
  ASSERT_TRUE(test::run(io, (*opened)->read(9998, back)));
  EXPECT_EQ(back, (bytes{std::byte{1}, std::byte{2}, std::byte{1}}));
  EXPECT_EQ((*opened)->size(), 10'001U);
  ASSERT_TRUE(test::run(io, (*opened)->close()));
  EXPECT_EQ(file_content(path).size(), 10'001U);
}

/// Fails the first fdatasync, as Linux does after it could not write back.
class failing_once_io final : public file_io {
 public:
  using file_io::file_io;
  std::string_view name() const noexcept override { return "failing once"; }
  int syncs = 0;

 private:
  task<std::int64_t> do_perform(const file_request& request) override {
    if (request.operation == file_request::kind::sync_data) co_return syncs++ == 0 ? -EIO : 0;
    co_return static_cast<std::int64_t>(request.length);
  }
};

TEST_F(local_file_open_test, a_failed_flush_is_never_followed_by_a_good_one) {
  make_file(path, 10'000);
  failing_once_io failing(io.get_executor(), workers);
  const auto opened = test::run(io, open_local_file(failing, path, {.writable = true}));
  ASSERT_TRUE(opened) << opened.error().what;
  EXPECT_EQ(test::run(io, (*opened)->flush()).error(), errno_code(EIO));
  EXPECT_EQ(test::run(io, (*opened)->flush()).error(), errno_code(EIO));
  ASSERT_TRUE(test::run(io, (*opened)->close()));
}

}  // namespace
}  // namespace weir
