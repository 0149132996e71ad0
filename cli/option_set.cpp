#include "cli/option_set.hpp"

#include "engine/base/size_text.hpp"

#include <boost/program_options.hpp>

#include <algorithm>
#include <cassert>
#include <charconv>

namespace weir::cli {
namespace {

namespace po = boost::program_options;

class usage_category_type final : public boost::system::error_category {
  const char* name() const noexcept override { return "weir-usage"; }
  std::string message(int) const override { return "wrong usage"; }
};

const boost::system::error_category& usage_category() noexcept {
  static const usage_category_type category;
  return category;
}

std::string spelling_of(const option_entry& entry) {
  return entry.letter != 0 ? entry.name + "," + entry.letter : entry.name;
}

po::options_description describe(std::span<const option_entry> entries) {
  po::options_description described;
  for (const option_entry& entry : entries) {
    const std::string spelling = spelling_of(entry);
    switch (entry.kind) {
      case option_entry::kind_type::flag:
      case option_entry::kind_type::optional_value:
        described.add_options()(spelling.c_str(), "");
        break;
      case option_entry::kind_type::value:
        described.add_options()(spelling.c_str(), po::value<std::vector<std::string>>(), "");
        break;
      case option_entry::kind_type::argument:
        break;
    }
  }
  return described;
}

std::string name_as_typed(const option_entry& entry) {
  return "--" + entry.name;
}

/// The parser's words, ours where they name the problem better.
std::string explain(const po::error& error) {
  std::string text = error.what();
  std::erase(text, '\'');
  return text;
}

outcome<void> take_arguments(std::span<const option_entry> entries, std::span<const std::string> words,
                             given_options& into) {
  std::size_t next = 0;
  for (const option_entry& entry : entries) {
    if (entry.kind != option_entry::kind_type::argument) continue;
    if (next < words.size()) {
      into.add(entry.name, words[next++]);
    } else if (entry.required) {
      return usage_failure(entry.name + " is missing");
    }
  }
  if (next < words.size()) return usage_failure("unexpected argument '" + words[next] + "'");
  return {};
}

const option_entry* find(std::span<const option_entry> entries, std::string_view key) {
  for (const option_entry& entry : entries) {
    if (entry.kind != option_entry::kind_type::argument && entry.name == key) return &entry;
  }
  return nullptr;
}

outcome<void> take_option(const option_entry& entry, const po::basic_option<char>& option,
                          given_options& into) {
  if (into.has(entry.name) && !entry.repeats && entry.kind == option_entry::kind_type::value) {
    return usage_failure(name_as_typed(entry) + " is given twice");
  }
  switch (entry.kind) {
    case option_entry::kind_type::flag:
      into.add(entry.name, "");
      break;
    case option_entry::kind_type::optional_value:
      into.add(entry.name, entry.implicit);
      break;
    default:
      into.add(entry.name, option.value.empty() ? "" : option.value.front());
  }
  return {};
}

/// Takes `--name=value` of options whose value is optional out of the words: the parser would let the bare option
/// swallow the argument behind it.
std::vector<std::string> without_adjacent_values(std::span<const option_entry> entries,
                                                 std::span<const std::string> words, given_options& into) {
  std::vector<std::string> rest;
  bool options_ended = false;
  for (const std::string& word : words) {
    // A last word like -5G is an argument: a size to take away.
    const bool is_last = &word == &words.back();
    if (is_last && !options_ended && word.size() > 1 && word[0] == '-' && word[1] >= '0' && word[1] <= '9') {
      rest.emplace_back("--");
    }
    options_ended = options_ended || word == "--";
    const auto given = std::ranges::find_if(entries, [&](const option_entry& entry) {
      return entry.kind == option_entry::kind_type::optional_value && !options_ended &&
             word.starts_with("--" + entry.name + "=");
    });
    if (given == entries.end()) {
      rest.push_back(word);
    } else {
      into.add(given->name, word.substr(given->name.size() + 3));
    }
  }
  return rest;
}

}  // namespace

failure usage_failure(std::string what) {
  return {error_code(1, usage_category()), std::move(what)};
}

bool is_usage(const failure& error) noexcept {
  return error.code.category() == usage_category();
}

bool given_options::has(std::string_view name) const {
  return values_.contains(name);
}

std::optional<std::string> given_options::value(std::string_view name) const {
  const auto found = values_.find(name);
  if (found == values_.end()) return std::nullopt;
  return found->second.back();
}

std::vector<std::string> given_options::values(std::string_view name) const {
  const auto found = values_.find(name);
  return found == values_.end() ? std::vector<std::string>{} : found->second;
}

outcome<std::optional<std::uint64_t>> given_options::size(std::string_view name) const {
  const auto text = value(name);
  if (!text) return std::optional<std::uint64_t>{};
  const auto parsed = parse_size(*text);
  if (!parsed) {
    return usage_failure(std::string(name) + ": '" + *text + "' is not a size (digits, then K, M, G or T)");
  }
  return parsed;
}

outcome<std::optional<std::uint64_t>> given_options::number(std::string_view name) const {
  const auto text = value(name);
  if (!text) return std::optional<std::uint64_t>{};
  const auto parsed = parse_number(*text);
  if (!parsed) return usage_failure(std::string(name) + ": '" + *text + "' is not a whole number");
  return parsed;
}

void given_options::add(std::string_view name, std::string value) {
  values_[std::string(name)].push_back(std::move(value));
  order_.emplace_back(name);
}

option_entry& option_set::add(option_entry::kind_type kind, std::string_view spelling,
                              std::string_view placeholder, std::string_view help) {
  option_entry entry;
  entry.kind = kind;
  const std::size_t comma = spelling.find(',');
  entry.name = spelling.substr(0, comma);
  if (comma != std::string_view::npos) entry.letter = spelling[comma + 1];
  entry.placeholder = placeholder;
  entry.help = help;
  return entries_.emplace_back(std::move(entry));
}

option_set& option_set::flag(std::string_view spelling, std::string_view help) {
  add(option_entry::kind_type::flag, spelling, "", help);
  return *this;
}

option_set& option_set::value(std::string_view spelling, std::string_view placeholder,
                              std::string_view help) {
  add(option_entry::kind_type::value, spelling, placeholder, help);
  return *this;
}

option_set& option_set::values(std::string_view spelling, std::string_view placeholder,
                               std::string_view help) {
  add(option_entry::kind_type::value, spelling, placeholder, help).repeats = true;
  return *this;
}

option_set& option_set::optional_value(std::string_view spelling, std::string_view placeholder,
                                       std::string_view implicit, std::string_view help) {
  add(option_entry::kind_type::optional_value, spelling, placeholder, help).implicit = implicit;
  return *this;
}

option_set& option_set::argument(std::string_view name, std::string_view help) {
  add(option_entry::kind_type::argument, name, name, help).required = true;
  return *this;
}

option_set& option_set::optional_argument(std::string_view name, std::string_view help) {
  add(option_entry::kind_type::argument, name, name, help);
  return *this;
}

option_set& option_set::progress() {
  return optional_value(
      "progress,p", "json", "bar",
      "Draw a progress bar on stderr, as is done anyway on a terminal; with =json print one "
      "JSON line per second instead.");
}

outcome<given_options> option_set::parse(std::span<const std::string> words) const {
  given_options given;
  std::vector<std::string> positional;
  try {
    const po::options_description described = describe(entries_);
    namespace style = po::command_line_style;
    const auto parsed = po::command_line_parser(without_adjacent_values(entries_, words, given))
                            .options(described)
                            .style(style::unix_style & ~style::allow_guessing)
                            .run();
    for (const auto& option : parsed.options) {
      if (option.position_key >= 0 || option.string_key.empty()) {
        positional.insert(positional.end(), option.value.begin(), option.value.end());
        continue;
      }
      const option_entry* entry = find(entries_, option.string_key);
      assert(entry != nullptr);
      if (auto taken = take_option(*entry, option, given); taken.has_error()) return taken.error();
    }
  } catch (const po::error& error) {
    return usage_failure(explain(error));
  }
  if (given.has("help")) return given;
  if (auto taken = take_arguments(entries_, positional, given); taken.has_error()) return taken.error();
  return given;
}

std::optional<std::uint64_t> parse_number(std::string_view text) noexcept {
  std::uint64_t number = 0;
  const auto [stopped, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (problem != std::errc{} || stopped != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace weir::cli
