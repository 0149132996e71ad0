// Image locks against the real QEMU, both ways round.
#include "engine/storage/local_file.hpp"
#include "tests/support/run_task.hpp"
#include "tests/support/temporary_directory.hpp"

#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <string>

namespace weir {
namespace {

struct answer {
  int status;
  std::string output;
};

answer run_command(const std::string& command) {
  answer got{-1, {}};
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return got;
  char piece[256];
  while (const std::size_t length = std::fread(piece, 1, sizeof piece, pipe))
    got.output.append(piece, length);
  got.status = ::pclose(pipe);
  return got;
}

class image_lock_test : public ::testing::Test {
 protected:
  void SetUp() override {
    const answer made = run_command("qemu-img create -f qcow2 " + path + " 1M");
    ASSERT_EQ(made.status, 0) << made.output;
  }
  void TearDown() override { stop_server(); }

  outcome<std::unique_ptr<storage>> open(bool writable, image_locking locking = image_locking::exclusive) {
    return test::run(io, open_local_file(*files, path, {.writable = writable, .locking = locking}));
  }

  // Daemonises once it serves, so that its locks are held when this returns.
  void start_server(const std::string& options) {
    const std::string pid_path = directory / "pid";
    const answer started = run_command("qemu-nbd --fork --persistent --pid-file=" + pid_path + " --socket=" +
                                       directory / "socket" + " " + options + " " + path + " >/dev/null");
    ASSERT_EQ(started.status, 0) << started.output;
    std::ifstream(pid_path) >> server;
    ASSERT_GT(server, 0);
  }
  void stop_server() {
    if (server > 0) ::kill(server, SIGKILL);
    server = 0;
  }

  boost::asio::io_context io{1};
  worker_pool workers{io.get_executor(), 1};
  std::unique_ptr<file_io> files = make_file_io(io.get_executor(), workers, aio_mode::automatic).value();
  test::temporary_directory directory;
  std::string path = directory / "image";
  pid_t server = 0;
};

TEST_F(image_lock_test, qemu_refuses_what_weir_writes) {
  outcome<std::unique_ptr<storage>> held = open(true);
  ASSERT_TRUE(held) << held.error().what;
  const answer writer = run_command("qemu-io -f qcow2 -c 'write 0 512' " + path);
  EXPECT_NE(writer.status, 0);
  EXPECT_NE(writer.output.find("Failed to get \"write\" lock"), std::string::npos) << writer.output;
  const answer raw_writer = run_command("qemu-io -f raw -c 'write 0 512' " + path);
  EXPECT_NE(raw_writer.output.find("Failed to get \"write\" lock"), std::string::npos) << raw_writer.output;
  const answer reader = run_command("qemu-io -r -f qcow2 -c 'read 0 512' " + path);
  EXPECT_NE(reader.output.find("Failed to get shared \"write\" lock"), std::string::npos) << reader.output;
  const answer tolerant = run_command("qemu-io -U -r -f qcow2 -c 'read 0 512' " + path);
  EXPECT_EQ(tolerant.status, 0) << tolerant.output;
  ASSERT_TRUE(test::run(io, (*held)->close()));
  const answer after = run_command("qemu-io -f qcow2 -c 'write 0 512' " + path);
  EXPECT_EQ(after.status, 0) << after.output;
}

TEST_F(image_lock_test, qemu_reads_beside_a_reader_but_does_not_write) {
  outcome<std::unique_ptr<storage>> held = open(false);
  ASSERT_TRUE(held) << held.error().what;
  const answer reader = run_command("qemu-io -r -f qcow2 -c 'read 0 512' " + path);
  EXPECT_EQ(reader.status, 0) << reader.output;
  const answer writer = run_command("qemu-io -f qcow2 -c 'write 0 512' " + path);
  EXPECT_NE(writer.output.find("Failed to get \"write\" lock"), std::string::npos) << writer.output;
  ASSERT_TRUE(test::run(io, (*held)->close()));
}

TEST_F(image_lock_test, weir_refuses_what_qemu_writes) {
  for (const char* format : {"--format=qcow2", "--format=raw"}) {
    ASSERT_NO_FATAL_FAILURE(start_server(format));
    for (const bool writable : {true, false}) {
      outcome<std::unique_ptr<storage>> opened = open(writable);
      ASSERT_FALSE(opened) << format;
      EXPECT_EQ(opened.error().code, errc::image_in_use);
      EXPECT_TRUE(
          opened.error().what.starts_with(path + ": image is in use by another process (failed to get"))
          << opened.error().what;
    }
    for (const image_locking locking : {image_locking::share, image_locking::off}) {
      outcome<std::unique_ptr<storage>> opened = open(false, locking);
      // A force-share reader is welcome; so is who asks for no locks at all.
      ASSERT_TRUE(opened) << opened.error().what;
      ASSERT_TRUE(test::run(io, (*opened)->close()));
    }
    stop_server();
    // The lock goes with the process; wait for its end by taking what it holds.
    outcome<std::unique_ptr<storage>> opened = open(true);
    while (!opened && opened.error().code == errc::image_in_use) opened = open(true);
    ASSERT_TRUE(opened) << opened.error().what;
    ASSERT_TRUE(test::run(io, (*opened)->close()));
  }
}

TEST_F(image_lock_test, weir_reads_beside_a_qemu_reader_but_does_not_write) {
  ASSERT_NO_FATAL_FAILURE(start_server("--format=qcow2 --read-only"));
  outcome<std::unique_ptr<storage>> reader = open(false);
  ASSERT_TRUE(reader) << reader.error().what;
  outcome<std::unique_ptr<storage>> writer = open(true);
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code, errc::image_in_use);
  ASSERT_TRUE(test::run(io, (*reader)->close()));
}

}  // namespace
}  // namespace weir
