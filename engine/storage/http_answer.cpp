#include "engine/storage/http_answer.hpp"

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <limits>
#include <utility>

namespace weir {
namespace {

constexpr auto npos = std::string_view::npos;
constexpr auto largest_size = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
/// Longest value that is kept of any header.
constexpr std::size_t longest_value = 8192;

char lower(char c) noexcept {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

bool same_name(std::string_view a, std::string_view b) noexcept {
  return std::ranges::equal(a, b, {}, lower, lower);
}

std::string_view trimmed(std::string_view text) noexcept {
  constexpr std::string_view blanks = " \t\r\n";
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

/// Decimal digits and nothing else.
std::optional<std::uint64_t> number(std::string_view text) noexcept {
  std::uint64_t value = 0;
  const char* const last = text.data() + text.size();
  const auto [end, error] = std::from_chars(text.data(), last, value);
  if (error != std::errc{} || end != last || value > largest_size) return std::nullopt;
  return value;
}

unsigned status_of(std::string_view line) noexcept {
  const std::size_t blank = line.find(' ');
  if (blank == npos) return 0;
  return static_cast<unsigned>(number(line.substr(blank + 1, 3)).value_or(0));
}

}  // namespace

std::optional<content_range> parse_content_range(std::string_view text) noexcept {
  constexpr std::string_view unit = "bytes ";
  if (text.size() < unit.size() || !same_name(text.substr(0, unit.size()), unit)) return std::nullopt;
  text = trimmed(text.substr(unit.size()));
  const std::size_t slash = text.find('/');
  if (slash == npos) return std::nullopt;
  const auto size = number(text.substr(slash + 1));
  if (!size) return std::nullopt;
  const std::string_view part = text.substr(0, slash);
  if (part == "*") return content_range{{}, *size};
  const std::size_t dash = part.find('-');
  if (dash == npos) return std::nullopt;
  const auto first = number(part.substr(0, dash));
  const auto last = number(part.substr(dash + 1));
  if (!first || !last || *last < *first || *last >= *size) return std::nullopt;
  return content_range{range_between(*first, *last + 1), *size};
}

bool http_head::feed(std::string_view line) {
  const std::size_t bytes = byte_count_ + line.size();
  if (bytes > most_bytes) return false;
  if (line.starts_with("HTTP/")) *this = http_head();
  byte_count_ = bytes;
  if (line.starts_with("HTTP/")) {
    status_ = status_of(line);
    return true;
  }
  const std::size_t colon = line.find(':');
  if (colon == npos) return true;
  const std::string_view name = line.substr(0, colon);
  const std::string_view value = trimmed(line.substr(colon + 1)).substr(0, longest_value);
  if (same_name(name, "content-range")) {
    has_range_twice_ = range_.has_value();
    range_ = value;
  } else if (same_name(name, "content-length")) {
    length_ = number(value);
  } else if (same_name(name, "content-encoding")) {
    is_encoded_ = !value.empty() && !same_name(value, "identity");
  } else if (same_name(name, "etag")) {
    etag_ = value;
  } else if (same_name(name, "last-modified")) {
    last_modified_ = value;
  } else if (same_name(name, "location")) {
    location_ = value;
  }
  return true;
}

http_verdict http_verdict::refused(std::string why, int number) {
  return {.what = kind::refuse, .why = std::move(why), .code = errno_code(number)};
}

http_verdict http_verdict::judge_past_end(const http_head& head, const std::optional<http_object>& known) {
  const auto told = head.range_ ? parse_content_range(*head.range_) : std::nullopt;
  if (known) return {.what = kind::changed, .why = "the object has shrunk"};
  if (!told || told->size != 0) return refused("the server refuses the range", EPROTO);
  return {.what = kind::data, .object = {0, head.etag_, head.last_modified_}};
}

http_verdict http_verdict::judge_part(const http_head& head, byte_range asked,
                                      const std::optional<http_object>& known) {
  if (head.is_encoded_) return refused("the server sends the object compressed", EPROTO);
  if (!head.range_) return refused("the server answers a range request without Content-Range", EPROTO);
  const auto told = head.has_range_twice_ ? std::nullopt : parse_content_range(*head.range_);
  if (!told || told->range.empty())
    return refused("the server tells no usable Content-Range and size", EPROTO);
  http_object object{told->size, head.etag_, head.last_modified_};
  if (known && object != *known) return {.what = kind::changed, .why = "the object has changed"};
  if (told->range != intersection(asked, {0, told->size}))
    return refused("the server sends another range than was asked for", EPROTO);
  if (head.length_ != told->range.length)
    return refused("the server tells no Content-Length that fits the range", EPROTO);
  return {.what = kind::data, .length = told->range.length, .object = std::move(object)};
}

http_verdict http_verdict::judge(const http_head& head, byte_range asked,
                                 const std::optional<http_object>& known) {
  switch (head.status_) {
    case 206:
      return judge_part(head, asked, known);
    case 416:
      return judge_past_end(head, known);
    case 200:
      // Some servers do not cut nothing into ranges.
      if (!known && head.length_ == 0)
        return {.what = kind::data, .object = {0, head.etag_, head.last_modified_}};
      return refused("the server does not support range requests", ENOTSUP);
    case 301:
    case 302:
    case 303:
    case 307:
    case 308:
      if (head.location_.empty()) return refused("the server redirects nowhere", EPROTO);
      return {.what = kind::redirect};
    case 401:
    case 403:
    case 407:
      return refused("the server denies access (" + std::to_string(head.status_) + ")", EACCES);
    case 404:
    case 410:
      return refused("the server has no such object (" + std::to_string(head.status_) + ")", ENOENT);
    default:
      break;
  }
  const std::string answer = "the server answers " + std::to_string(head.status_);
  const bool has_trouble = head.status_ >= 500 || head.status_ == 408 || head.status_ == 429;
  if (has_trouble) return {.what = kind::try_again, .why = answer, .code = errno_code(EIO)};
  return refused(answer, EPROTO);
}

}  // namespace weir
