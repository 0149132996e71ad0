// Collects what a check finds: figures in full, lines up to a limit.
#pragma once

#include "engine/block/check.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace weir {

class check_log {
 public:
  explicit check_log(finding_sink sink) : sink_(std::move(sink)) {}

  check_report report;

  void corruption(std::string_view line) {
    ++report.corruptions;
    say(line);
  }
  void leak(std::string_view line) {
    ++report.leaks;
    say(line);
  }
  /// Something could not be looked at.
  void trouble(std::string_view line) {
    ++report.check_errors;
    say(line);
  }
  /// A line that is no finding of its own.
  void say(std::string_view line) {
    if (!sink_ || line_count_ > most_lines) return;
    sink_(line_count_++ == most_lines ? "further findings are counted, but not shown" : line);
  }

 private:
  static constexpr std::uint64_t most_lines = 2000;

  finding_sink sink_;
  std::uint64_t line_count_ = 0;
};

}  // namespace weir
