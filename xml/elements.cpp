#include "xml/elements.hpp"

#include <algorithm>
#include <charconv>

namespace weir::xml {

pugi::xml_node only_child(pugi::xml_node parent, const char* name, problem_log& log) {
  const pugi::xml_node first = parent.child(name);
  if (const pugi::xml_node second = first.next_sibling(name)) {
    log.add(second, std::string("a second <") + name + "> in <" + parent.name() + ">");
  }
  return first;
}

bool has_elements(pugi::xml_node parent) {
  return std::ranges::any_of(parent.children(),
                             [](pugi::xml_node child) { return child.type() == pugi::node_element; });
}

bool check_value(pugi::xml_node at, const char* attribute, std::initializer_list<std::string_view> allowed,
                 problem_log& log) {
  const pugi::xml_attribute found = at.attribute(attribute);
  if (!found || std::ranges::find(allowed, std::string_view(found.value())) != allowed.end()) return true;
  log.add(at, std::string("<") + at.name() + " " + attribute + "='" + found.value() + "'>: unknown value");
  return false;
}

std::optional<std::uint64_t> number_attribute(pugi::xml_node at, const char* attribute, problem_log& log) {
  const pugi::xml_attribute found = at.attribute(attribute);
  if (!found) return std::nullopt;
  const std::string_view text(found.value());
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc{} && end == text.data() + text.size()) return number;
  log.add(at, std::string("<") + at.name() + " " + attribute + "='" + found.value() +
                  "'>: not an unsigned number");
  return std::nullopt;
}

void put_attribute(pugi::xml_node at, const char* name, const std::string& value) {
  if (value.empty()) {
    at.remove_attribute(name);
    return;
  }
  pugi::xml_attribute attribute = at.attribute(name);
  if (!attribute) attribute = at.append_attribute(name);
  attribute.set_value(value.c_str());
}

bool is_blank_text(pugi::xml_node node) {
  return node.type() == pugi::node_pcdata &&
         std::string_view(node.value()).find_first_not_of(" \t\r\n") == std::string_view::npos;
}

void remove_with_blanks(pugi::xml_node node) {
  pugi::xml_node parent = node.parent();
  if (const pugi::xml_node before = node.previous_sibling(); is_blank_text(before))
    parent.remove_child(before);
  parent.remove_child(node);
}

}  // namespace weir::xml
