// Small helpers over the document tree.
#pragma once

#include "xml/problem_log.hpp"

#include <pugixml.hpp>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace weir::xml {

/// The only child element called `name`; a second one is a problem.
pugi::xml_node only_child(pugi::xml_node parent, const char* name, problem_log& log);
bool has_elements(pugi::xml_node parent);
/// True if `value` is one of `allowed`; otherwise a problem that names the attribute.
bool check_value(pugi::xml_node at, const char* attribute, std::initializer_list<std::string_view> allowed,
                 problem_log& log);
/// An unsigned decimal attribute without sign, blanks or junk. Absent: nothing. Malformed: nothing and a problem.
std::optional<std::uint64_t> number_attribute(pugi::xml_node at, const char* attribute, problem_log& log);
/// Sets or adds the attribute; an empty value removes it.
void put_attribute(pugi::xml_node at, const char* name, const std::string& value);
/// Removes the node and the blank text before it.
void remove_with_blanks(pugi::xml_node node);
bool is_blank_text(pugi::xml_node node);

}  // namespace weir::xml
