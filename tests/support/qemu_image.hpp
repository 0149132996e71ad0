// QEMU's own tools as the other side of an interop test, and files of theirs on a simulated disk.
#pragma once

#include "engine/storage/simulated_disk.hpp"
#include "tests/support/temporary_directory.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace weir::test {

struct command_result {
  int status = -1;
  std::string output;
};

/// Runs a shell command; both its output streams are kept.
inline command_result run_command(const std::string& command) {
  command_result done;
  std::FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return done;
  std::array<char, 4096> buffer{};
  std::size_t got = 0;
  while ((got = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0)
    done.output.append(buffer.data(), got);
  const int status = ::pclose(pipe);
  done.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return done;
}

/// Runs a command that must succeed; returns its output.
inline std::string must_run(const std::string& command) {
  const command_result done = run_command(command);
  EXPECT_EQ(done.status, 0) << command << "\n" << done.output;
  return done.output;
}

inline std::vector<std::byte> file_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  EXPECT_TRUE(file.good()) << path;
  std::vector<std::byte> bytes(static_cast<std::size_t>(file.tellg()));
  file.seekg(0);
  file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  return bytes;
}

inline void write_file(const std::string& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  EXPECT_TRUE(file.good()) << path;
}

/// What the guest of an image sees, in QEMU's opinion.
inline std::vector<std::byte> guest_bytes(const std::string& path, const std::string& format,
                                          const std::string& options = {}) {
  const std::string raw = path + ".raw";
  must_run("qemu-img convert -O raw -f " + format + " " + options + " " + path + " " + raw);
  return file_bytes(raw);
}

/// A file on a simulated disk, and back.
inline simulated_disk disk_of(const std::string& path) {
  simulated_disk disk;
  disk.load(0, file_bytes(path));
  return disk;
}

inline void save_disk(const simulated_disk& disk, const std::string& path) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(disk.visible().size()));
  disk.visible().read(0, bytes);
  write_file(path, bytes);
}

}  // namespace weir::test
