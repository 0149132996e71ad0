#include "engine/control/json_stream.hpp"

#include <boost/json/error.hpp>
#include <boost/json/parse_options.hpp>

#include <utility>

namespace weir {
namespace {

namespace json = boost::json;

json::parse_options limits() {
  json::parse_options options;
  options.max_depth = json_stream::max_depth;
  return options;
}

constexpr std::string_view whitespace = " \t\r\n";

}  // namespace

json_stream::json_stream() : parser_({}, limits()) {}

void json_stream::start_over() {
  parser_.reset();
  value_bytes_ = 0;
}

std::vector<json_stream::item> json_stream::feed(std::string_view bytes) {
  std::vector<item> items;
  while (!bytes.empty()) {
    if (skipping_line_) {
      const std::size_t line_end = bytes.find('\n');
      if (line_end == std::string_view::npos) return items;
      bytes.remove_prefix(line_end + 1);
      skipping_line_ = false;
      continue;
    }
    if (value_bytes_ == 0) {
      // Between values only: the parser would take white space for the beginning of one.
      const std::size_t first = bytes.find_first_not_of(whitespace);
      if (first == std::string_view::npos) return items;
      bytes.remove_prefix(first);
    }
    json::error_code problem;
    const std::string_view part = bytes.substr(0, max_value_bytes - value_bytes_);
    const std::size_t used = parser_.write_some(part.data(), part.size(), problem);
    value_bytes_ += used;
    if (!problem && !parser_.done() && value_bytes_ < max_value_bytes) return items;
    if (!problem && parser_.done()) {
      items.push_back({parser_.release(), {}});
      bytes.remove_prefix(used);
    } else {
      items.push_back({std::nullopt, problem ? "JSON parse error, " + problem.message()
                                             : "JSON parse error, value is too long"});
      skipping_line_ = true;
    }
    start_over();
  }
  return items;
}

}  // namespace weir
