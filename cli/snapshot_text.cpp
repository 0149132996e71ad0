#include "cli/snapshot_text.hpp"

#include "cli/human_size.hpp"

#include <boost/json.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <ctime>

namespace weir::cli {
namespace {

namespace json = boost::json;

std::string printable(const json::value& text) {
  std::string shown(text.get_string());
  std::ranges::replace_if(shown, [](unsigned char c) { return c < 0x20 || c == 0x7f; }, '?');
  return shown;
}

std::string date_text(std::uint64_t seconds) {
  const auto when = static_cast<std::time_t>(seconds);
  std::tm local{};
  std::array<char, 32> text{};
  if (::localtime_r(&when, &local) == nullptr) return {};
  std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &local);
  return text.data();
}

std::string clock_text(std::uint64_t seconds, std::uint64_t nanoseconds) {
  std::array<char, 48> text{};
  std::snprintf(text.data(), text.size(), "%04llu:%02u:%02u.%03u",
                static_cast<unsigned long long>(seconds / 3600), static_cast<unsigned>(seconds / 60 % 60),
                static_cast<unsigned>(seconds % 60), static_cast<unsigned>(nanoseconds / 1'000'000));
  return text.data();
}

void append_right(std::string& line, const std::string& text, std::size_t width) {
  line += ' ';
  line.append(width - std::min(width, text.size()), ' ');
  line += text;
}

void append_left(std::string& line, const std::string& text, std::size_t width) {
  line += text;
  line.append(width - std::min(width, text.size()), ' ');
}

/// Columns as wide as qemu-img's.
std::string row(const std::array<std::string, 6>& columns) {
  std::string line;
  append_left(line, columns[0], 7);
  line += ' ';
  append_left(line, columns[1], 16);
  append_right(line, columns[2], 8);
  append_right(line, columns[3], 19);
  append_right(line, columns[4], 15);
  append_right(line, columns[5], 10);
  return line + "\n";
}

}  // namespace

std::string snapshot_table(const json::array& snapshots) {
  std::string table = "Snapshot list:\n";
  table += row({"ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"});
  for (const json::value& each : snapshots) {
    const json::object& shown = each.get_object();
    const auto number = [&](const char* key) { return shown.at(key).to_number<std::uint64_t>(); };
    const json::value* icount = shown.if_contains("icount");
    table += row({printable(shown.at("id")), printable(shown.at("name")), human_size(number("vm-state-size")),
                  date_text(number("date-sec")), clock_text(number("vm-clock-sec"), number("vm-clock-nsec")),
                  icount != nullptr ? json::serialize(*icount) : std::string("--")});
  }
  return table;
}

}  // namespace weir::cli
