#include "xml/text_scan.hpp"

#include <algorithm>
#include <array>
#include <string>
#include <vector>

namespace weir::xml {
namespace {

constexpr auto npos = std::string_view::npos;
constexpr std::string_view blanks = " \t\r\n";

bool is_name_end(char c) noexcept {
  return blanks.find(c) != npos || c == '/' || c == '>';
}

/// `&amp;` and friends, `&#10;`, `&#x0a;`.
bool is_reference(std::string_view text) {
  const std::string_view name = text.substr(1, text.substr(0, 16).find(';') - 1);
  if (text.substr(0, 16).find(';') == npos) return false;
  constexpr std::array<std::string_view, 5> known{"amp", "lt", "gt", "quot", "apos"};
  if (std::ranges::find(known, name) != known.end()) return true;
  if (name.starts_with("#x"))
    return name.size() > 2 && name.find_first_not_of("0123456789abcdefABCDEF", 2) == npos;
  return name.starts_with("#") && name.size() > 1 && name.find_first_not_of("0123456789", 1) == npos;
}

class scanner {
 public:
  explicit scanner(std::string_view text) : text_(text) {}

  text_scan run() {
    if (text_.starts_with("\xEF\xBB\xBF")) at_ = 3;
    while (!found_.wrong && at_ < text_.size()) {
      const std::size_t tag = std::min(text_.find('<', at_), text_.size());
      check_content(at_, tag);
      at_ = tag;
      if (at_ < text_.size()) step_over_markup();
    }
    if (!open_.empty()) fail(open_.back(), "element is not closed");
    return std::move(found_);
  }

 private:
  void fail(std::size_t offset, std::string what) {
    if (!found_.wrong) found_.wrong = problem{static_cast<std::ptrdiff_t>(offset), std::move(what)};
  }

  void check_references(std::size_t from, std::size_t to) {
    const std::string_view part = text_.substr(0, to);
    for (std::size_t at = part.find('&', from); at != npos; at = part.find('&', at + 1)) {
      if (!is_reference(part.substr(at))) fail(at, "undefined entity");
    }
  }

  void check_content(std::size_t from, std::size_t to) {
    check_references(from, to);
    const std::size_t text = text_.substr(0, to).find_first_not_of(blanks, from);
    if (open_.empty() && text != npos) fail(text, "text outside the document's element");
  }

  void step_over_markup() {
    const std::string_view rest = text_.substr(at_);
    if (rest.starts_with("<!--")) return step_behind("-->", 4);
    if (rest.starts_with("<![CDATA[")) return step_behind("]]>", 9);
    if (rest.starts_with("<?")) return step_behind("?>", 2);
    if (rest.starts_with("<!")) return fail(at_, "document type declarations are not accepted");
    if (rest.starts_with("</")) return close_element();
    open_element();
  }

  void step_behind(std::string_view end, std::size_t skip) {
    const std::size_t found = text_.find(end, at_ + skip);
    if (found == npos) fail(at_, "markup is not closed");
    at_ = found == npos ? text_.size() : found + end.size();
  }

  void close_element() {
    const std::size_t end = text_.find('>', at_);
    if (end == npos || open_.empty()) return fail(at_, "closing tag without an element");
    at_ = end + 1;
    leave(open_.back());
    open_.pop_back();
  }

  void open_element() {
    const std::size_t start = at_;
    std::size_t attributes = 0;
    for (++at_; at_ < text_.size() && text_[at_] != '>'; ++at_) {
      const char quote = text_[at_];
      if (quote != '"' && quote != '\'') continue;
      const std::size_t close = text_.find(quote, at_ + 1);
      if (close == npos) return fail(start, "attribute is not closed");
      check_references(at_, close);
      at_ = close;
      ++attributes;
    }
    if (at_ >= text_.size()) return fail(start, "tag is not closed");
    if (attributes > max_attributes) fail(start, "too many attributes");
    const bool empty = text_[at_ - 1] == '/';
    ++at_;
    if (empty) return leave(start);
    open_.push_back(start);
    if (open_.size() > max_depth) fail(start, "elements are nested too deeply");
  }

  /// The element that starts at `start` ends before at_.
  void leave(std::size_t start) {
    if (text_.substr(start + 1).starts_with("disk") && is_name_end(text_[start + 5]))
      found_.disk_ends[start] = at_;
  }

  std::string_view text_;
  std::size_t at_ = 0;
  std::vector<std::size_t> open_;
  text_scan found_;
};

}  // namespace

text_scan scan_text(std::string_view text) {
  return scanner(text).run();
}

}  // namespace weir::xml
