// What a web server's answer to a range request means. Pure: header lines in, a verdict out.
//
// Only one answer brings data: 206 with exactly the range asked for (clipped to the object's end), its length, no content
// encoding, and the size, ETag and Last-Modified that the object had when it was opened. Everything else is to be
// tried again, followed, or refused; what is refused says why. RFC 9110, sections 8.8, 14 and 15.
#pragma once

#include "engine/base/error.hpp"
#include "engine/base/range.hpp"

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace weir {

/// What tells one version of an object from another. Empty texts: the server does not say.
struct http_object {
  std::uint64_t size = 0;
  std::string etag;
  std::string last_modified;
  friend bool operator==(const http_object&, const http_object&) = default;
};

/// "bytes FIRST-LAST/SIZE", or "bytes */SIZE".
struct content_range {
  byte_range range;  ///< empty for "*"
  std::uint64_t size = 0;
};

/// Nothing for what is malformed, of unknown size or beyond 2^63.
std::optional<content_range> parse_content_range(std::string_view text) noexcept;

/// The headers of one answer, line by line as they arrive. A status line begins anew, so that informational answers
/// before the final one leave nothing behind.
class http_head {
 public:
  static constexpr std::size_t most_bytes = std::size_t{64} << 10;

  /// False: too many bytes; nobody should go on listening.
  bool feed(std::string_view line);

  unsigned status() const noexcept { return status_; }
  const std::string& location() const noexcept { return location_; }

 private:
  friend struct http_verdict;
  bool has_range_twice_ = false;
  bool is_encoded_ = false;
  unsigned status_ = 0;
  std::size_t byte_count_ = 0;
  std::optional<std::uint64_t> length_;
  std::optional<std::string> range_;
  std::string etag_;
  std::string last_modified_;
  std::string location_;
};

struct http_verdict {
  enum class kind : std::uint8_t {
    data,       ///< the body is `length` bytes from the offset asked for
    redirect,   ///< to head.location()
    try_again,  ///< the server has trouble
    changed,    ///< another version of the object
    refuse,     ///< `why`
  };
  kind what = kind::refuse;
  std::string why = {};
  error_code code = {};
  std::uint64_t length = 0;
  http_object object = {};  ///< for data

  /// Precondition: `asked` is not empty. `known`: the object as it was when opened; nothing while opening it, when
  /// an empty object (416 with size 0, or 200 with length 0) is data of length 0.
  static http_verdict judge(const http_head& head, byte_range asked, const std::optional<http_object>& known);

 private:
  static http_verdict judge_part(const http_head& head, byte_range asked,
                                 const std::optional<http_object>& known);
  static http_verdict judge_past_end(const http_head& head, const std::optional<http_object>& known);
  static http_verdict refused(std::string why, int number);
};

}  // namespace weir
