#include "cli/help.hpp"

#include <algorithm>
#include <vector>

namespace weir::cli {
namespace {

constexpr std::size_t text_width = 100;

std::vector<std::string_view> split(std::string_view text, std::string_view separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t at = text.find(separator);
    parts.push_back(text.substr(0, at));
    text = at == std::string_view::npos ? std::string_view{} : text.substr(at + separator.size());
  }
  return parts;
}

/// `text` broken into lines, each after `indent` spaces.
std::string wrapped(std::string_view text, std::size_t indent) {
  std::string out;
  std::size_t column = 0;
  for (const std::string_view word : split(text, " ")) {
    if (word.empty()) continue;
    if (column != 0 && column + 1 + word.size() > text_width) {
      out += '\n';
      column = 0;
    }
    if (column == 0) {
      out.append(indent, ' ');
      column = indent;
    } else {
      out += ' ';
      ++column;
    }
    out += word;
    column += word.size();
  }
  return out + "\n";
}

std::string spelling(const option_entry& entry) {
  if (entry.kind == option_entry::kind_type::argument) return entry.name;
  std::string text = entry.letter != 0 ? std::string("-") + entry.letter + ", " : "";
  text += "--" + entry.name;
  if (entry.kind == option_entry::kind_type::value) text += " " + entry.placeholder;
  if (entry.kind == option_entry::kind_type::optional_value) text += "[=" + entry.placeholder + "]";
  return text;
}

option_set options_of(const verb& about) {
  option_set options;
  about.declare(options);
  return options;
}

/// Escaped for roff: no line may begin with a control character, and - is a minus sign.
std::string roff(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\') {
      out += "\\e";
    } else if (c == '-') {
      out += "\\-";
    } else if ((c == '.' || c == '\'') && (out.empty() || out.back() == '\n')) {
      out += "\\&";
      out += c;
    } else {
      out += c;
    }
  }
  return out;
}

std::string man_title(std::string_view name) {
  std::string title(name);
  std::ranges::transform(title, title.begin(),
                         [](char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; });
  return ".TH " + title + " 1 \"\" \"weir " + std::string(version) + "\" \"weir manual\"\n";
}

}  // namespace

std::string overview(std::span<const verb> verbs) {
  std::string text =
      "weir: disk backing chains of virtual machines, served, streamed and copied\n\n"
      "usage: weir VERB [OPTION]… ARGUMENT…\n\n";
  std::size_t widest = 0;
  for (const verb& each : verbs) widest = std::max(widest, each.name.size());
  for (const verb& each : verbs) {
    text += "  " + std::string(each.name) + std::string(widest - each.name.size() + 2, ' ') +
            std::string(each.summary) + "\n";
  }
  return text + "\n`weir help VERB` explains one. Sizes take K, M, G or T (binary).\n";
}

std::string help_text(const verb& about) {
  std::string text = "usage: weir " + std::string(about.name) + " " + std::string(about.synopsis) + "\n\n";
  for (const std::string_view paragraph : split(about.description, "\n\n")) {
    text += wrapped(paragraph, 0) + "\n";
  }
  const option_set options = options_of(about);
  for (const option_entry& entry : options.entries()) {
    text += "  " + spelling(entry) + "\n" + wrapped(entry.help, 6);
  }
  return text;
}

std::string man_page(const verb& about) {
  const std::string name(about.name);
  std::string page = man_title("weir-" + name);
  page += ".SH NAME\nweir\\-" + roff(name) + " \\- " + roff(about.summary) + "\n";
  page += ".SH SYNOPSIS\n.B weir " + roff(name) + "\n" + roff(about.synopsis) + "\n.SH DESCRIPTION\n";
  for (const std::string_view paragraph : split(about.description, "\n\n")) {
    page += ".PP\n" + roff(paragraph) + "\n";
  }
  page += ".SH OPTIONS\n";
  const option_set options = options_of(about);
  for (const option_entry& entry : options.entries()) {
    page += ".TP\n.B " + roff(spelling(entry)) + "\n" + roff(entry.help) + "\n";
  }
  page += ".SH SEE ALSO\n.BR weir (1)\n";
  return page;
}

std::string man_page(std::span<const verb> verbs) {
  std::string page = man_title("weir");
  page += ".SH NAME\nweir \\- disk backing chains of virtual machines\n";
  page += ".SH SYNOPSIS\n.B weir\nVERB [OPTION]... ARGUMENT...\n";
  page +=
      ".SH DESCRIPTION\nServes, streams and copies the disk backing chains of virtual machines. Sizes take "
      "K, M, "
      "G or T (binary).\n.SH VERBS\n";
  for (const verb& each : verbs) {
    page += ".TP\n.BR weir\\-" + roff(each.name) + " (1)\n" + roff(each.summary) + "\n";
  }
  page +=
      ".SH EXIT STATUS\n0 done; 1 failed, with one line on stderr; 2 wrong usage. weir compare: 0 same, 1 "
      "different, 2 trouble. weir check: 0 clean, 1 failed or wrong usage, 2 corrupt, 3 leaks, 63 not "
      "supported.\n";
  return page;
}

}  // namespace weir::cli
