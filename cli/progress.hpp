// Progress on stderr: a bar with rate and time left, or one JSON line per second.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace weir::cli {

enum class progress_style : std::uint8_t { none, bar, json };

/// What -p/--progress[=json] asks for; nothing given: a bar if stderr is a terminal.
std::optional<progress_style> parse_progress(const std::optional<std::string>& given);

/// Decides when to print and what; pure.
class progress_report {
 public:
  using clock = std::chrono::steady_clock;

  progress_report(progress_style style, std::string_view label, clock::time_point start);

  /// What to write to stderr now; empty if it is not yet time.
  std::string update(std::uint64_t done_bytes, std::uint64_t total_bytes, clock::time_point now);
  /// The last state, whatever the time, and the line's end.
  std::string finish(clock::time_point now);

 private:
  std::string bar(clock::time_point now) const;
  std::string json(clock::time_point now) const;
  double rate(clock::time_point now) const;

  progress_style style_;
  std::string label_;
  clock::time_point start_;
  clock::time_point next_;
  std::uint64_t first_done_bytes_ = 0;  // what an earlier run had done
  bool begun_ = false;
  std::uint64_t done_bytes_ = 0;
  std::uint64_t total_bytes_ = 0;
};

/// Writes a report to stderr.
class progress_meter {
 public:
  progress_meter(progress_style style, std::string_view label);
  ~progress_meter();
  progress_meter(const progress_meter&) = delete;
  progress_meter& operator=(const progress_meter&) = delete;

  void update(std::uint64_t done_bytes, std::uint64_t total_bytes);
  /// All is done, whatever the last update said.
  void complete();
  /// Ends the line; later updates are not shown.
  void finish();

 private:
  progress_report report_;
  std::uint64_t total_bytes_ = 0;
  bool finished_ = false;
};

}  // namespace weir::cli
