// The options and arguments of one verb: declared once, and parsed, explained by `weir help` and printed as a
// man page from that one declaration.
#pragma once

#include "engine/base/error.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weir::cli {

/// A failure that is the user's wrong call of a verb: exit code 2 and a pointer to the help.
failure usage_failure(std::string what);
bool is_usage(const failure& error) noexcept;

/// What the user gave, by long option name or argument name.
class given_options {
 public:
  bool has(std::string_view name) const;
  /// The last value given for `name`.
  std::optional<std::string> value(std::string_view name) const;
  /// Every value given, in order.
  std::vector<std::string> values(std::string_view name) const;
  /// The value as a size with K/M/G/T suffix (binary). Errors: usage.
  outcome<std::optional<std::uint64_t>> size(std::string_view name) const;
  /// The value as a whole number >= 0. Errors: usage.
  outcome<std::optional<std::uint64_t>> number(std::string_view name) const;

  /// Names as they were given, one for each time: for verbs whose options are steps.
  std::span<const std::string> names_in_order() const noexcept { return order_; }

  void add(std::string_view name, std::string value);

 private:
  std::map<std::string, std::vector<std::string>, std::less<>> values_;
  std::vector<std::string> order_;
};

struct option_entry {
  enum class kind_type : std::uint8_t { flag, value, optional_value, argument };
  kind_type kind = kind_type::flag;
  std::string name;         ///< long name, without dashes; of an argument: what the synopsis calls it
  char letter = 0;          ///< short name, 0 = none
  std::string placeholder;  ///< "FMT"
  std::string help;
  bool repeats = false;
  bool required = false;
  std::string implicit;  ///< optional_value: the value of a bare option
};

class option_set {
 public:
  /// `spelling` is "long" or "long,l".
  option_set& flag(std::string_view spelling, std::string_view help);
  option_set& value(std::string_view spelling, std::string_view placeholder, std::string_view help);
  /// May be given several times.
  option_set& values(std::string_view spelling, std::string_view placeholder, std::string_view help);
  /// `--name` alone means `implicit`; a value must be adjacent (`--name=value`).
  option_set& optional_value(std::string_view spelling, std::string_view placeholder,
                             std::string_view implicit, std::string_view help);
  /// The next positional argument; required ones come first.
  option_set& argument(std::string_view name, std::string_view help);
  option_set& optional_argument(std::string_view name, std::string_view help);
  /// Adds -p, --progress[=json].
  option_set& progress();

  std::span<const option_entry> entries() const noexcept { return entries_; }

  /// Errors: usage (unknown option, missing value or argument, an argument too many).
  outcome<given_options> parse(std::span<const std::string> words) const;

 private:
  option_entry& add(option_entry::kind_type kind, std::string_view spelling, std::string_view placeholder,
                    std::string_view help);

  std::vector<option_entry> entries_;
};

/// Decimal digits only.
std::optional<std::uint64_t> parse_number(std::string_view text) noexcept;

}  // namespace weir::cli
