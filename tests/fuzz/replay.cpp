// Runs every file of the corpus through its target: `fuzz_replay CORPUS [TARGET]`.
#include "tests/fuzz/fuzz_targets.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace weir::fuzz {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  if (!fs::is_directory(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

std::vector<std::byte> bytes_of(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

/// The number of files run.
std::size_t replay(const fuzz_target& target, const fs::path& corpus) {
  const std::vector<fs::path> files = files_in(corpus / target.name);
  for (const fs::path& each : files) {
    // Named first: whatever ends the process, the last line says on which file.
    std::printf("%s\n", each.c_str());
    std::fflush(stdout);
    // Of exactly this size on the heap, so that a sanitizer sees a read beyond it.
    const std::vector<std::byte> bytes = bytes_of(each);
    target.run(bytes);
  }
  return files.size();
}

int replay_all(const fs::path& corpus, std::string_view only) {
  std::size_t total = 0;
  for (const fuzz_target& each : fuzz_targets) {
    if (!only.empty() && each.name != only) continue;
    const std::size_t count = replay(each, corpus);
    if (count == 0) {
      std::fprintf(stderr, "fuzz_replay: %s has no corpus\n", std::string(each.name).c_str());
      return 1;
    }
    total += count;
  }
  std::printf("%zu inputs replayed\n", total);
  return total == 0 ? 1 : 0;
}

}  // namespace
}  // namespace weir::fuzz

int main(int count, char** words) {
  if (count < 2) {
    std::fputs("usage: fuzz_replay CORPUS [TARGET]\n", stderr);
    return 2;
  }
  return weir::fuzz::replay_all(words[1], count > 2 ? words[2] : "");
}
