// Cuts a byte stream into JSON values, separated by anything or nothing.
#pragma once

#include <boost/json/stream_parser.hpp>
#include <boost/json/value.hpp>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

class json_stream {
 public:
  /// Longest single value and deepest nesting accepted.
  static constexpr std::size_t max_value_bytes = std::size_t{1} << 20;
  static constexpr std::size_t max_depth = 64;

  /// A value, or why the bytes are not one.
  struct item {
    std::optional<boost::json::value> value;
    std::string problem;
  };

  json_stream();

  /// The values completed by `bytes`. After malformed input everything up to the next line is dropped and
  /// reading starts afresh there.
  std::vector<item> feed(std::string_view bytes);

 private:
  void start_over();

  boost::json::stream_parser parser_;
  std::size_t value_bytes_ = 0;
  bool skipping_line_ = false;
};

}  // namespace weir
