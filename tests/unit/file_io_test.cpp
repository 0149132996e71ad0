#include "engine/storage/file_io.hpp"

#include "engine/storage/file_descriptor.hpp"
#include "tests/support/run_task.hpp"
#include "tests/support/temporary_directory.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/falloc.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <vector>

namespace weir {
namespace {

using bytes = std::vector<std::byte>;

class file_io_test : public ::testing::TestWithParam<aio_mode> {
 protected:
  boost::asio::io_context io{1};
  worker_pool workers{io.get_executor(), 2};
  std::unique_ptr<file_io> files = make_file_io(io.get_executor(), workers, GetParam()).value();
  test::temporary_directory directory;
  file_descriptor file{::open((directory / "file").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600)};
};

INSTANTIATE_TEST_SUITE_P(modes, file_io_test, ::testing::Values(aio_mode::io_uring, aio_mode::threads),
                         [](const auto& tested) {
                           return tested.param == aio_mode::threads ? "threads" : "io_uring";
                         });

TEST_P(file_io_test, says_what_it_is) {
  EXPECT_EQ(files->name(), GetParam() == aio_mode::threads ? "threads" : "io_uring");
}

task<void> write_then_read(file_io& files, int descriptor, unsigned number, unsigned& good) {
  const bytes data(1000, static_cast<std::byte>(number));
  bytes back(1000);
  const result<void> written = co_await files.write(descriptor, number * 1000, data);
  const result<void> read = co_await files.read(descriptor, number * 1000, back);
  if (written && read && back == data) ++good;
}

// Four times the slots of the ring. That run() returns shows that nothing lingers.
TEST_P(file_io_test, serves_any_number_of_requests_at_once) {
  unsigned good = 0;
  for (unsigned number = 0; number < 1000; ++number) {
    test::start(io, write_then_read(*files, file.get(), number, good));
  }
  io.run();
  EXPECT_EQ(good, 1000U);
}

TEST_P(file_io_test, reads_zeros_past_the_end) {
  const bytes data(100, std::byte{7});
  ASSERT_TRUE(test::run(io, files->write(file.get(), 0, data)));
  bytes back(300, std::byte{9});
  ASSERT_TRUE(test::run(io, files->read(file.get(), 50, back)));
  bytes expected(300);
  std::fill_n(expected.begin(), 50, std::byte{7});
  EXPECT_EQ(back, expected);
}

TEST_P(file_io_test, long_transfers_are_whole) {
  bytes data(40 * MiB);
  for (std::size_t at = 0; at < data.size(); at += 511) data[at] = static_cast<std::byte>(at / 511);
  ASSERT_TRUE(test::run(io, files->write(file.get(), 3, data)));
  bytes back(data.size());
  ASSERT_TRUE(test::run(io, files->read(file.get(), 3, back)));
  EXPECT_TRUE(back == data);
}

TEST_P(file_io_test, syncs_and_allocates) {
  EXPECT_TRUE(test::run(io, files->allocate(file.get(), 0, {0, 1 * MiB})));
  EXPECT_TRUE(test::run(io, files->sync_data(file.get())));
  struct stat status{};
  ASSERT_EQ(::fstat(file.get(), &status), 0);
  EXPECT_EQ(status.st_size, static_cast<off_t>(1 * MiB));
  EXPECT_GE(status.st_blocks * 512, static_cast<off_t>(1 * MiB));
}

TEST_P(file_io_test, passes_errors_on) {
  bytes buffer(10);
  EXPECT_EQ(test::run(io, files->read(-1, 0, buffer)).error(), errno_code(EBADF));
  EXPECT_EQ(test::run(io, files->write(-1, 0, buffer)).error(), errno_code(EBADF));
  EXPECT_EQ(test::run(io, files->sync_data(-1)).error(), errno_code(EBADF));
  EXPECT_EQ(test::run(io, files->allocate(-1, 0, {0, 1})).error(), errno_code(EBADF));
  EXPECT_EQ(test::run(io, files->allocate(file.get(), FALLOC_FL_PUNCH_HOLE, {0, 1})).error(),
            errno_code(EOPNOTSUPP));
}

// Ends the process with 0 if, with io_uring forbidden as containers do it, threads take over by themselves and
// asking for io_uring is refused.
[[noreturn]] void try_without_io_uring() {
  sock_filter program[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{std::size(program), program};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) std::_Exit(1);
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0) std::_Exit(2);
  boost::asio::io_context io{1};
  worker_pool workers{io.get_executor(), 1};
  const auto chosen = make_file_io(io.get_executor(), workers, aio_mode::automatic);
  if (!chosen || (*chosen)->name() != "threads") std::_Exit(3);
  const auto refused = make_file_io(io.get_executor(), workers, aio_mode::io_uring);
  if (refused || refused.error().what != "io_uring: Operation not permitted") std::_Exit(4);
  std::_Exit(0);
}

TEST(file_io_choice_death_test, falls_back_to_threads_where_io_uring_is_forbidden) {
  EXPECT_EXIT(try_without_io_uring(), ::testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace weir
