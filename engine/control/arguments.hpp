// Decodes the arguments of a QMP command as QEMU's generated marshallers do: members are asked for in the
// schema's order, the first problem is the one reported, members nobody asked for are refused last.
#pragma once

#include "engine/control/qmp_reply.hpp"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>

#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>

namespace weir {

/// After the first problem every getter answers an empty value; finish() tells the problem.
class argument_reader {
 public:
  /// `members` must outlive the reader. `prefix` is put before names in messages ("addr.").
  explicit argument_reader(const boost::json::object& members, std::string prefix = {});

  std::string string(std::string_view name);
  std::optional<std::string> optional_string(std::string_view name);
  std::int64_t integer(std::string_view name);
  std::optional<std::int64_t> optional_integer(std::string_view name);
  bool boolean(std::string_view name);
  std::optional<bool> optional_boolean(std::string_view name);
  /// The position of the given word in `words`.
  std::optional<std::size_t> optional_word(std::string_view name, std::span<const std::string_view> words);
  std::size_t word(std::string_view name, std::span<const std::string_view> words);
  /// A required object; empty (and a problem) where it is missing.
  const boost::json::object& object(std::string_view name);
  /// An array; null where it is missing.
  const boost::json::array* optional_array(std::string_view name);
  /// Accepts and forgets a member.
  void ignore(std::string_view name);

  void fail(qmp_error error);
  bool failed() const noexcept { return error_.has_value(); }
  /// The first problem; otherwise, members that were never asked for.
  qmp_result<void> finish();

 private:
  const boost::json::value* take(std::string_view name, bool required);
  void fail_type(std::string_view name, std::string_view expected);

  const boost::json::object& members_;
  std::string prefix_;
  std::set<std::string, std::less<>> asked_;
  std::optional<qmp_error> error_;
};

}  // namespace weir
