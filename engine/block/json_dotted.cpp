#include "engine/block/json_dotted.hpp"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

constexpr std::size_t max_dotted_parts = 16;

/// Adds `value` under a dotted `key`. False if the path runs into something that is no object, or is too deep.
bool add_dotted(json::object& into, std::string_view key, json::value value) {
  json::object* at = &into;
  for (std::size_t parts = 0;; ++parts) {
    const std::size_t dot = key.find('.');
    if (dot == std::string_view::npos) break;
    if (parts == max_dotted_parts) return false;
    json::value& next = (*at)[key.substr(0, dot)];
    if (next.is_null()) next.emplace_object();
    if (!next.is_object()) return false;
    at = &next.get_object();
    key.remove_prefix(dot + 1);
  }
  json::value& slot = (*at)[key];
  if (slot.is_null()) {
    slot = std::move(value);
    return true;
  }
  if (!slot.is_object() || !value.is_object()) return false;
  for (json::key_value_pair& member : value.get_object()) {
    if (!slot.get_object().emplace(member.key(), std::move(member.value())).second) return false;
  }
  return true;
}

/// {"0":a,"1":b} → [a,b]; anything else stays.
void make_array(json::value& value) {
  json::object& object = value.get_object();
  json::array items;
  for (std::size_t i = 0; i < object.size(); ++i) {
    const auto found = object.find(std::to_string(i));
    if (found == object.end()) return;
    items.push_back(std::move(found->value()));
  }
  if (!items.empty()) value = std::move(items);
}

bool expand(json::value& value) {
  if (value.is_array()) return std::ranges::all_of(value.get_array(), expand);
  if (!value.is_object()) return true;
  json::object expanded;
  for (json::key_value_pair& member : value.get_object()) {
    if (!expand(member.value())) return false;
    if (!add_dotted(expanded, member.key(), std::move(member.value()))) return false;
  }
  value = std::move(expanded);
  return true;
}

void make_arrays(json::value& value) {
  if (value.is_array()) {
    for (json::value& item : value.get_array()) make_arrays(item);
  } else if (value.is_object()) {
    for (json::key_value_pair& member : value.get_object()) make_arrays(member.value());
    make_array(value);
  }
}

}  // namespace

bool expand_dotted_keys(json::value& value) {
  if (!expand(value)) return false;
  make_arrays(value);
  return true;
}

}  // namespace weir
