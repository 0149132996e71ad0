// QEMU's dotted keys: {"file.driver":"file"} means {"file":{"driver":"file"}}, and an object whose keys are
// 0, 1, 2, … is a list.
#pragma once

#include <boost/json/value.hpp>

namespace weir {

/// Expands `value` at every level. False if keys contradict each other ("a" beside "a.b") or have more than 16
/// parts. Recurses as deep as the value is: limit the parser's depth.
bool expand_dotted_keys(boost::json::value& value);

}  // namespace weir
