#include "cli/map_svg.hpp"

#include "cli/human_size.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <string_view>

namespace weir::cli {
namespace {

// Pixels.
constexpr std::size_t columns = 960;
constexpr int margin = 20;
constexpr int row_height = 26;
constexpr int label_height = 18;
constexpr int row_pitch = row_height + label_height + 12;
constexpr int title_height = 34;
constexpr int axis_height = 26;
constexpr int legend_height = 40;
constexpr std::size_t longest_label = 90;

struct kind_style {
  std::string_view name;
  std::string_view colour;
};
// In the order in which a tie inside a pixel is decided.
constexpr std::array<kind_style, 3> kinds{
    {{"data", "#2f6db5"}, {"compressed", "#8a4fb0"}, {"zero", "#b9c4cf"}}};
constexpr std::string_view empty_colour = "#f3f1ec";
constexpr std::size_t no_kind = kinds.size();

std::size_t kind_of(const map_run& run) {
  if (run.compressed) return 1;
  return run.zero ? 2 : 0;
}

/// Length of the UTF-8 character that `text` begins with; 0 if it is none.
std::size_t character_length(std::string_view text) {
  const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (std::size_t at = 1; at < length; ++at) {
    if ((byte(at) & 0xc0) != 0x80) return 0;
  }
  // Overlong forms, surrogates, what is above the last character.
  const bool is_odd = (first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) >= 0xa0) ||
                      (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) >= 0x90);
  return is_odd ? 0 : length;
}

std::string escape(std::string_view text) {
  std::string escaped;
  while (!text.empty()) {
    const std::size_t length = character_length(text);
    const std::string_view character = text.substr(0, std::max<std::size_t>(length, 1));
    text.remove_prefix(character.size());
    if (character == "&") {
      escaped += "&amp;";
    } else if (character == "<") {
      escaped += "&lt;";
    } else if (character == ">") {
      escaped += "&gt;";
    } else if (character == "\"") {
      escaped += "&quot;";
    } else if (length == 0 || static_cast<unsigned char>(character[0]) < 0x20) {
      escaped += '?';  // cannot stand in XML at all
    } else {
      escaped += character;
    }
  }
  return escaped;
}

/// The end of a long name tells files apart.
std::string shorten(const std::string& name) {
  if (name.size() <= longest_label) return name;
  std::size_t from = name.size() - longest_label;
  // Not inside a character of several bytes.
  while (from < name.size() && (static_cast<unsigned char>(name[from]) & 0xc0) == 0x80) ++from;
  return "…" + name.substr(from);
}

std::string text_at(int x, int y, std::string_view attributes, const std::string& content) {
  return "<text x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) + "\"" + std::string(attributes) +
         ">" + escape(content) + "</text>\n";
}

std::string box(std::size_t x, int y, std::size_t width, std::string_view colour) {
  return "<rect x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) + "\" width=\"" +
         std::to_string(width) + "\" height=\"" + std::to_string(row_height) + "\" fill=\"" +
         std::string(colour) + "\"";
}

/// What one layer owns: by pixel, and in all.
class layer_row {
 public:
  layer_row() : parts_(columns) {}

  void add(const map_run& run, std::uint64_t disk_size) {
    const std::size_t kind = kind_of(run);
    totals_[kind] += run.length;
    const double scale = static_cast<double>(columns) / static_cast<double>(disk_size);
    const double begin = static_cast<double>(run.start) * scale;
    const double end = static_cast<double>(run.start + run.length) * scale;
    const auto last = std::min(static_cast<std::size_t>(end), columns - 1);
    for (auto column = std::min(static_cast<std::size_t>(begin), columns - 1); column <= last; ++column) {
      const double from = std::max(begin, static_cast<double>(column));
      const double to = std::min(end, static_cast<double>(column + 1));
      if (to > from) parts_[column][kind] += to - from;
    }
  }

  /// The kind that takes most of what the layer owns in that pixel; no_kind where it owns nothing.
  std::size_t kind_at(std::size_t column) const {
    const auto& parts = parts_[column];
    const auto most = std::ranges::max_element(parts);
    return *most > 0 ? static_cast<std::size_t>(most - parts.begin()) : no_kind;
  }

  std::string summary() const {
    std::string text;
    for (std::size_t kind = 0; kind < kinds.size(); ++kind) {
      if (totals_[kind] == 0) continue;
      text += (text.empty() ? "" : ", ") + human_size(totals_[kind]) + " " + std::string(kinds[kind].name);
    }
    return text.empty() ? "owns nothing" : text;
  }

 private:
  std::vector<std::array<double, kinds.size()>> parts_;
  std::array<std::uint64_t, kinds.size()> totals_{};
};

std::string draw_row(const layer_row& row, int y, std::uint64_t disk_size) {
  std::string drawn = box(margin, y, columns, empty_colour) + " stroke=\"#d8d4ca\"/>\n";
  const auto offset_of = [&](std::size_t column) {
    return static_cast<std::uint64_t>(static_cast<double>(disk_size) / columns * static_cast<double>(column));
  };
  for (std::size_t first = 0; first < columns;) {
    const std::size_t kind = row.kind_at(first);
    std::size_t end = first + 1;
    while (end < columns && row.kind_at(end) == kind) ++end;
    if (kind != no_kind) {
      drawn += box(margin + first, y, end - first, kinds[kind].colour) + "><title>" +
               human_size(offset_of(first)) + " to " + human_size(offset_of(end)) + ": mostly " +
               std::string(kinds[kind].name) + "</title></rect>\n";
    }
    first = end;
  }
  return drawn;
}

std::string draw_disk(const mapped_disk& disk, int y) {
  std::string drawn = text_at(margin, y + 20, " font-size=\"16\" font-weight=\"bold\"", shorten(disk.name));
  y += title_height;
  std::vector<layer_row> rows(disk.files.size());
  for (const map_run& run : disk.runs) {
    if (run.present && run.depth < rows.size() && disk.size > 0) rows[run.depth].add(run, disk.size);
  }
  for (std::size_t depth = 0; depth < rows.size(); ++depth) {
    drawn +=
        text_at(margin, y + label_height - 5, "", std::to_string(depth) + "  " + shorten(disk.files[depth]));
    drawn += text_at(margin + static_cast<int>(columns), y + label_height - 5,
                     " text-anchor=\"end\" fill=\"#555\"", rows[depth].summary());
    drawn += draw_row(rows[depth], y + label_height, disk.size);
    y += row_pitch;
  }
  drawn += text_at(margin, y + 6, " fill=\"#555\"", "0");
  drawn += text_at(margin + static_cast<int>(columns) / 2, y + 6, " text-anchor=\"middle\" fill=\"#555\"",
                   human_size(disk.size / 2));
  drawn += text_at(margin + static_cast<int>(columns), y + 6, " text-anchor=\"end\" fill=\"#555\"",
                   human_size(disk.size));
  return drawn;
}

std::string draw_legend(int y) {
  std::string drawn;
  int x = margin;
  const auto entry = [&](std::string_view name, std::string_view colour) {
    drawn += "<rect x=\"" + std::to_string(x) + "\" y=\"" + std::to_string(y) +
             "\" width=\"14\" height=\"14\" fill=\"" + std::string(colour) + "\" stroke=\"#d8d4ca\"/>\n";
    drawn += text_at(x + 20, y + 12, "", std::string(name));
    x += 150;
  };
  for (const kind_style& kind : kinds) entry(kind.name, kind.colour);
  entry("not in this layer", empty_colour);
  return drawn;
}

int height_of(const mapped_disk& disk) {
  return title_height + static_cast<int>(disk.files.size()) * row_pitch + axis_height;
}

}  // namespace

std::string to_svg(std::span<const mapped_disk> disks) {
  int height = margin + legend_height;
  for (const mapped_disk& disk : disks) height += height_of(disk);
  const std::string width = std::to_string(columns + 2 * margin);
  std::string drawn =
      "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" +
      width + "\" height=\"" + std::to_string(height) + "\" viewBox=\"0 0 " + width + " " +
      std::to_string(height) + "\" font-family=\"sans-serif\" font-size=\"12\">\n" +
      "<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n";
  int y = margin / 2;
  for (const mapped_disk& disk : disks) {
    drawn += draw_disk(disk, y);
    y += height_of(disk);
  }
  return drawn + draw_legend(y + 4) + "</svg>\n";
}

}  // namespace weir::cli
