// What is fed with hostile bytes. Each target is a function of its input alone, so that an input replays anywhere:
// tests/fuzz/replay.cpp runs the committed corpus in every build, tests/fuzz/fuzzer.cpp lets libFuzzer search.
//
// A target does what weir does with such bytes and checks what must hold whatever they say; check() ends the process
// where it does not. Crashes, leaks, hangs and excessive memory are the sanitizers' and libFuzzer's to find.
#pragma once

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string_view>

namespace weir::fuzz {

using input_bytes = std::span<const std::byte>;

struct fuzz_target {
  std::string_view name;  ///< also the folder of its corpus
  void (*run)(input_bytes input) = nullptr;
};

void run_qcow2_header(input_bytes input);
void run_qcow2_read(input_bytes input);
void run_qcow2_write(input_bytes input);
void run_qcow1_read(input_bytes input);
void run_qed_read(input_bytes input);
void run_qed_write(input_bytes input);
void run_deflate(input_bytes input);
void run_zstd(input_bytes input);
void run_domain_xml(input_bytes input);
void run_backing_name(input_bytes input);
void run_nbd(input_bytes input);
void run_qmp(input_bytes input);

inline constexpr fuzz_target fuzz_targets[] = {
    {"qcow2_header", run_qcow2_header},
    {"qcow2_read", run_qcow2_read},
    {"qcow2_write", run_qcow2_write},
    {"qcow1_read", run_qcow1_read},
    {"qed_read", run_qed_read},
    {"qed_write", run_qed_write},
    {"deflate", run_deflate},
    {"zstd", run_zstd},
    {"domain_xml", run_domain_xml},
    {"backing_name", run_backing_name},
    {"nbd", run_nbd},
    {"qmp", run_qmp},
};

inline void check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "fuzz: does not hold: %s\n", what);
  std::abort();
}

}  // namespace weir::fuzz
