#include "engine/control/arguments.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace weir {

namespace json = boost::json;

argument_reader::argument_reader(const json::object& members, std::string prefix)
    : members_(members), prefix_(std::move(prefix)) {}

void argument_reader::fail(qmp_error error) {
  if (!error_) error_ = std::move(error);
}

void argument_reader::fail_type(std::string_view name, std::string_view expected) {
  fail(generic_error("Invalid parameter type for '" + prefix_ + std::string(name) +
                     "', expected: " + std::string(expected)));
}

const json::value* argument_reader::take(std::string_view name, bool required) {
  asked_.emplace(name);
  if (error_) return nullptr;
  const json::value* found = members_.if_contains(name);
  if (found == nullptr && required) {
    fail(generic_error("Parameter '" + prefix_ + std::string(name) + "' is missing"));
  }
  return found;
}

std::optional<std::string> argument_reader::optional_string(std::string_view name) {
  const json::value* found = take(name, false);
  if (found == nullptr) return std::nullopt;
  if (!found->is_string()) {
    fail_type(name, "string");
    return std::nullopt;
  }
  return std::string(found->get_string());
}

std::string argument_reader::string(std::string_view name) {
  if (take(name, true) == nullptr) return {};
  return optional_string(name).value_or(std::string{});
}

std::optional<std::int64_t> argument_reader::optional_integer(std::string_view name) {
  const json::value* found = take(name, false);
  if (found == nullptr) return std::nullopt;
  if (found->is_int64()) return found->get_int64();
  fail_type(name, "integer");
  return std::nullopt;
}

std::int64_t argument_reader::integer(std::string_view name) {
  if (take(name, true) == nullptr) return 0;
  return optional_integer(name).value_or(0);
}

std::optional<bool> argument_reader::optional_boolean(std::string_view name) {
  const json::value* found = take(name, false);
  if (found == nullptr) return std::nullopt;
  if (found->is_bool()) return found->get_bool();
  fail_type(name, "boolean");
  return std::nullopt;
}

bool argument_reader::boolean(std::string_view name) {
  if (take(name, true) == nullptr) return false;
  return optional_boolean(name).value_or(false);
}

std::optional<std::size_t> argument_reader::optional_word(std::string_view name,
                                                          std::span<const std::string_view> words) {
  const std::optional<std::string> given = optional_string(name);
  if (!given) return std::nullopt;
  const auto found = std::ranges::find(words, std::string_view(*given));
  if (found == words.end()) {
    // QEMU leaves the prefix out here.
    fail(generic_error("Parameter '" + std::string(name) + "' does not accept value '" + *given + "'"));
    return std::nullopt;
  }
  return static_cast<std::size_t>(found - words.begin());
}

std::size_t argument_reader::word(std::string_view name, std::span<const std::string_view> words) {
  if (take(name, true) == nullptr) return 0;
  return optional_word(name, words).value_or(0);
}

const json::object& argument_reader::object(std::string_view name) {
  static const json::object nothing;
  const json::value* found = take(name, true);
  if (found == nullptr) return nothing;
  if (found->is_object()) return found->get_object();
  fail_type(name, "object");
  return nothing;
}

const json::array* argument_reader::optional_array(std::string_view name) {
  const json::value* found = take(name, false);
  if (found == nullptr) return nullptr;
  if (found->is_array()) return &found->get_array();
  fail_type(name, "array");
  return nullptr;
}

void argument_reader::ignore(std::string_view name) {
  asked_.emplace(name);
}

qmp_result<void> argument_reader::finish() {
  if (!error_) {
    for (const json::key_value_pair& member : members_) {
      if (asked_.contains(std::string_view(member.key()))) continue;
      fail(generic_error("Parameter '" + prefix_ + std::string(member.key()) + "' is unexpected"));
      break;
    }
  }
  if (error_) return *error_;
  return {};
}

}  // namespace weir
