#include "cli/progress.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace weir::cli {
namespace {

using namespace std::chrono_literals;

constexpr auto bar_interval = 100ms;
constexpr auto json_interval = 1s;
constexpr std::size_t bar_width = 30;

template <class... Values>
std::string print(const char* format, Values... values) {
  std::array<char, 256> text;
  const int length = std::snprintf(text.data(), text.size(), format, values...);
  return {text.data(), std::clamp<std::size_t>(static_cast<std::size_t>(length), 0, text.size() - 1)};
}

std::string human_bytes(double bytes) {
  constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
  std::size_t unit = 0;
  while (bytes >= 1024 && unit + 1 < units.size()) {
    bytes /= 1024;
    ++unit;
  }
  return print("%.*f %s", unit == 0 ? 0 : 1, bytes, units[unit]);
}

std::string clock_text(double seconds) {
  const auto whole = static_cast<unsigned>(std::clamp(seconds, 0.0, 359999.0));
  return whole >= 3600 ? print("%u:%02u:%02u", whole / 3600, whole / 60 % 60, whole % 60)
                       : print("%02u:%02u", whole / 60, whole % 60);
}

double seconds_between(progress_report::clock::time_point from, progress_report::clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace

std::optional<progress_style> parse_progress(const std::optional<std::string>& given) {
  if (!given) return ::isatty(STDERR_FILENO) != 0 ? progress_style::bar : progress_style::none;
  if (*given == "bar") return progress_style::bar;
  if (*given == "json") return progress_style::json;
  return std::nullopt;
}

progress_report::progress_report(progress_style style, std::string_view label, clock::time_point start)
    : style_(style), label_(label), start_(start), next_(start) {}

std::string progress_report::update(std::uint64_t done_bytes, std::uint64_t total_bytes,
                                    clock::time_point now) {
  if (!std::exchange(begun_, true)) first_done_bytes_ = done_bytes;
  done_bytes_ = done_bytes;
  total_bytes_ = total_bytes;
  if (style_ == progress_style::none || now < next_) return {};
  next_ =
      now + (style_ == progress_style::json ? clock::duration(json_interval) : clock::duration(bar_interval));
  return style_ == progress_style::json ? json(now) : bar(now);
}

std::string progress_report::finish(clock::time_point now) {
  if (style_ == progress_style::none || !begun_) return {};
  return style_ == progress_style::json ? json(now) : bar(now) + "\n";
}

double progress_report::rate(clock::time_point now) const {
  const double seconds = seconds_between(start_, now);
  return seconds > 0 ? static_cast<double>(done_bytes_ - first_done_bytes_) / seconds : 0;
}

std::string progress_report::bar(clock::time_point now) const {
  const double part =
      total_bytes_ == 0 ? 1.0 : static_cast<double>(done_bytes_) / static_cast<double>(total_bytes_);
  const auto filled = static_cast<std::size_t>(std::clamp(part, 0.0, 1.0) * bar_width);
  const double speed = rate(now);
  const double left = speed > 0 ? static_cast<double>(total_bytes_ - done_bytes_) / speed : 0;
  const std::string time_left = speed > 0 || done_bytes_ == total_bytes_ ? clock_text(left) : "--:--";
  return "\r" + label_ + " [" + std::string(filled, '#') + std::string(bar_width - filled, '.') +
         print("] %5.1f %%  ", part * 100) + human_bytes(speed) + "/s  ETA " + time_left + "\x1b[K";
}

std::string progress_report::json(clock::time_point now) const {
  return print("{\"offset\":%llu,\"len\":%llu,\"rate\":%.0f,\"seconds\":%.3f}\n",
               static_cast<unsigned long long>(done_bytes_), static_cast<unsigned long long>(total_bytes_),
               rate(now), seconds_between(start_, now));
}

progress_meter::progress_meter(progress_style style, std::string_view label)
    : report_(style, label, progress_report::clock::now()) {}

progress_meter::~progress_meter() {
  finish();
}

void progress_meter::complete() {
  update(total_bytes_, total_bytes_);
}

void progress_meter::update(std::uint64_t done_bytes, std::uint64_t total_bytes) {
  if (finished_) return;
  total_bytes_ = total_bytes;
  const std::string text = report_.update(done_bytes, total_bytes, progress_report::clock::now());
  if (!text.empty()) std::fputs(text.c_str(), stderr);
}

void progress_meter::finish() {
  if (std::exchange(finished_, true)) return;
  const std::string text = report_.finish(progress_report::clock::now());
  if (!text.empty()) std::fputs(text.c_str(), stderr);
}

}  // namespace weir::cli
