#include "engine/storage/http_answer.hpp"

#include <gtest/gtest.h>

#include <cerrno>
#include <initializer_list>
#include <string>

namespace weir {
namespace {

using kind = http_verdict::kind;

http_head head_of(std::initializer_list<std::string> lines) {
  http_head head;
  for (const std::string& line : lines) EXPECT_TRUE(head.feed(line + "\r\n"));
  return head;
}

http_verdict judge(std::initializer_list<std::string> lines, const std::optional<http_object>& known = {}) {
  return http_verdict::judge(head_of(lines), {100, 50}, known);
}

TEST(http_answer, content_ranges_are_read_strictly) {
  const auto good = parse_content_range("bytes 100-149/1000");
  ASSERT_TRUE(good);
  EXPECT_EQ(good->range, (byte_range{100, 50}));
  EXPECT_EQ(good->size, 1000U);
  EXPECT_EQ(parse_content_range("bytes */7")->size, 7U);
  EXPECT_TRUE(parse_content_range("Bytes 0-0/1"));
  EXPECT_TRUE(parse_content_range("bytes 0-1/9223372036854775807"));
  for (const char* bad :
       {"", "bytes", "bytes ", "bytes 1-2", "bytes 2-1/10", "bytes 0-10/10", "bytes 0-1/*", "bytes -1/10",
        "bytes 1-/10", "bytes +1-2/10", "bytes 1-2/10x", "lines 1-2/10", "bytes 0-1/9223372036854775808",
        "bytes 0-18446744073709551616/18446744073709551617", "bytes 1 - 2/10"}) {
    EXPECT_FALSE(parse_content_range(bad)) << bad;
  }
}

TEST(http_answer, a_part_is_data_only_if_everything_fits) {
  const std::string range = "Content-Range: bytes 100-149/1000";
  const auto good = judge({"HTTP/1.1 206 Partial", range, "content-length: 50", "ETag: \"x\""});
  ASSERT_EQ(good.what, kind::data);
  EXPECT_EQ(good.length, 50U);
  EXPECT_EQ(good.object, (http_object{1000, "\"x\"", ""}));
  EXPECT_EQ(judge({"HTTP/1.1 206", range}).what, kind::refuse) << "no length";
  EXPECT_EQ(judge({"HTTP/1.1 206", range, "Content-Length: 49"}).what, kind::refuse);
  EXPECT_EQ(judge({"HTTP/1.1 206", "Content-Length: 50"}).what, kind::refuse) << "no range";
  EXPECT_EQ(judge({"HTTP/1.1 206", range, range, "Content-Length: 50"}).what, kind::refuse) << "two ranges";
  EXPECT_EQ(judge({"HTTP/1.1 206", range, "Content-Length: 50", "Content-Encoding: gzip"}).what,
            kind::refuse);
  EXPECT_EQ(judge({"HTTP/1.1 206", "Content-Range: bytes 101-150/1000", "Content-Length: 50"}).what,
            kind::refuse);
  EXPECT_EQ(judge({"HTTP/1.1 206", "Content-Range: bytes 100-119/120", "Content-Length: 20"}).length, 20U)
      << "clipped to the end";
}

TEST(http_answer, another_version_is_never_data) {
  const http_object known{1000, "\"x\"", "Mon"};
  const std::string length = "Content-Length: 50";
  const std::string range = "Content-Range: bytes 100-149/1000";
  const std::string tag = "ETag: \"x\"";
  const std::string date = "Last-Modified: Mon";
  EXPECT_EQ(judge({"HTTP/1.1 206", length, range, tag, date}, known).what, kind::data);
  EXPECT_EQ(judge({"HTTP/1.1 206", length, range, "ETag: \"y\"", date}, known).what, kind::changed);
  EXPECT_EQ(judge({"HTTP/1.1 206", length, range, date}, known).what, kind::changed);
  EXPECT_EQ(judge({"HTTP/1.1 206", length, range, tag, "Last-Modified: Tue"}, known).what, kind::changed);
  EXPECT_EQ(judge({"HTTP/1.1 206", length, "Content-Range: bytes 100-149/1001", tag, date}, known).what,
            kind::changed);
  EXPECT_EQ(judge({"HTTP/1.1 416", "Content-Range: bytes */10"}, known).what, kind::changed);
}

TEST(http_answer, every_status_has_a_meaning) {
  EXPECT_EQ(judge({"HTTP/1.1 200 OK"}).code, errno_code(ENOTSUP));
  EXPECT_EQ(judge({"HTTP/1.1 404"}).code, errno_code(ENOENT));
  EXPECT_EQ(judge({"HTTP/1.1 403"}).code, errno_code(EACCES));
  for (const char* busy : {"500", "502", "503", "504", "408", "429"}) {
    EXPECT_EQ(judge({std::string("HTTP/1.1 ") + busy}).what, kind::try_again) << busy;
  }
  EXPECT_EQ(judge({"HTTP/1.1 302", "Location: /b"}).what, kind::redirect);
  EXPECT_EQ(judge({"HTTP/1.1 302"}).what, kind::refuse);
  for (const char* odd : {"HTTP/1.1 ", "HTTP/1.1 abc", "HTTP/1.1 -20", "HTTP", "HTTP/2 299"}) {
    EXPECT_EQ(judge({odd}).what, kind::refuse) << odd;
  }
  EXPECT_EQ(judge({"HTTP/1.1 416", "Content-Range: bytes */0"}).what, kind::data) << "an empty object";
  EXPECT_EQ(judge({"HTTP/1.1 200", "Content-Length: 0"}).what, kind::data) << "an empty object";
  EXPECT_EQ(judge({"HTTP/1.1 200", "Content-Length: 0"}, http_object{9, "", ""}).what, kind::refuse);
  EXPECT_EQ(judge({"HTTP/1.1 416", "Content-Range: bytes */9"}).what, kind::refuse);
}

TEST(http_answer, an_informational_answer_leaves_nothing_behind_but_its_bytes) {
  EXPECT_EQ(judge({"HTTP/1.1 103 Early", "Content-Encoding: gzip", "Content-Length: 1",
                   "HTTP/1.1 206 Partial", "Content-Range: bytes 100-149/1000", "Content-Length: 50"})
                .what,
            kind::data);
  http_head endless;
  std::size_t bytes = 0;
  while (endless.feed("HTTP/1.1 100 Continue\r\n")) {
    bytes += 23;
    ASSERT_LE(bytes, http_head::most_bytes);
  }
}

}  // namespace
}  // namespace weir
