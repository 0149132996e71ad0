#include "engine/control/arguments.hpp"
#include "engine/control/job_records.hpp"
#include "engine/control/json_stream.hpp"
#include "engine/control/qmp_session.hpp"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <string_view>

namespace weir {
namespace {

namespace json = boost::json;

json::object object(std::string_view text) {
  return json::parse(text).as_object();
}

TEST(ArgumentReader, TheFirstProblemInTheOrderAskedIsReported) {
  const json::object members = object(R"({"b": 5, "stranger": 1})");
  argument_reader reader(members);
  reader.string("a");
  reader.string("b");
  const auto checked = reader.finish();
  ASSERT_TRUE(checked.has_error());
  EXPECT_EQ(checked.error().description, "Parameter 'a' is missing");
}

TEST(ArgumentReader, StrangersAreRefusedLast) {
  const json::object members = object(R"({"stranger": 1, "a": "x"})");
  argument_reader reader(members, "outer.");
  EXPECT_EQ(reader.string("a"), "x");
  EXPECT_EQ(reader.finish().error().description, "Parameter 'outer.stranger' is unexpected");
}

TEST(ArgumentReader, TypesAreNotConverted) {
  constexpr std::array<std::string_view, 2> words{"one", "two"};
  const std::string numbers = R"({"i": 1.0, "b": 1, "s": 1, "w": "three", "big": 9223372036854775808})";
  const json::object members = object(numbers);
  const auto problem = [&](auto ask) {
    argument_reader reader(members);
    ask(reader);
    return reader.finish().error().description;
  };
  EXPECT_EQ(problem([](auto& r) { r.integer("i"); }), "Invalid parameter type for 'i', expected: integer");
  EXPECT_EQ(problem([](auto& r) { r.integer("big"); }),
            "Invalid parameter type for 'big', expected: integer");
  EXPECT_EQ(problem([](auto& r) { r.boolean("b"); }), "Invalid parameter type for 'b', expected: boolean");
  EXPECT_EQ(problem([](auto& r) { r.string("s"); }), "Invalid parameter type for 's', expected: string");
  EXPECT_EQ(problem([](auto& r) { r.object("s"); }), "Invalid parameter type for 's', expected: object");
  EXPECT_EQ(problem([&](auto& r) { r.word("w", words); }), "Parameter 'w' does not accept value 'three'");
}

/// What the stream makes of the text cut into pieces of `piece` bytes: values, or "!" for a problem.
std::string cut(std::string_view text, std::size_t piece) {
  json_stream stream;
  std::string seen;
  for (std::size_t at = 0; at < text.size(); at += piece) {
    for (const json_stream::item& item : stream.feed(text.substr(at, piece))) {
      seen += (item.value ? json::serialize(*item.value) : "!") + ";";
    }
  }
  return seen;
}

TEST(JsonStream, ValuesAreFoundHoweverTheBytesArrive) {
  constexpr std::string_view text = " {\"a\":[1,2]}{}\r\n\t[]  {\"b\":\"}{\"}\n";
  for (std::size_t piece = 1; piece <= text.size(); ++piece) {
    EXPECT_EQ(cut(text, piece), R"({"a":[1,2]};{};[];{"b":"}{"};)") << "pieces of " << piece;
  }
}

TEST(JsonStream, AfterAMistakeTheNextLineIsRead) {
  for (std::size_t piece = 1; piece < 20; ++piece) {
    EXPECT_EQ(cut("{\"a\" \"b\"} {}\n{\"c\":1}\n", piece), "!;{\"c\":1};") << "pieces of " << piece;
  }
}

TEST(JsonStream, LengthAndDepthAreBounded) {
  json_stream stream;
  const std::string open = "\"" + std::string(json_stream::max_value_bytes - 2, 'x');
  EXPECT_TRUE(stream.feed(open).empty());
  const auto items = stream.feed("xx\"\n[1]\n");
  ASSERT_EQ(items.size(), 2U);
  EXPECT_FALSE(items.front().value);
  EXPECT_EQ(json::serialize(*items.back().value), "[1]");
  EXPECT_EQ(cut(std::string(json_stream::max_depth + 1, '[') + "\n", 7), "!;");
}

std::string judge(qmp_session& session, std::string_view request) {
  std::string said;
  for (const qmp_request& each : session.feed(request)) {
    const auto verdict = session.admit(each);
    said += verdict.refusal    ? std::string(verdict.refusal->error_class)
            : verdict.answered ? "answered"
                               : "execute";
    said += ";";
  }
  return said;
}

TEST(QmpSession, OnlyNegotiationIsAllowedFirstAndOnlyOnce) {
  qmp_session session;
  EXPECT_EQ(
      judge(session, R"({"execute":"quit"}{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}})"),
      "CommandNotFound;GenericError;");
  EXPECT_FALSE(session.negotiated());
  EXPECT_EQ(
      judge(session, R"({"execute":"qmp_capabilities"}{"execute":"qmp_capabilities"}{"execute":"quit"})"),
      "answered;CommandNotFound;execute;");
  EXPECT_TRUE(session.negotiated());
}

TEST(JobRecord, SaysAllOfARequest) {
  stream_request request;
  request.settings.id = "a job";
  request.settings.speed_bytes_per_s = 12345678901;
  request.settings.error_policy = on_error::enospc;
  request.settings.auto_dismiss = false;
  request.disk = "vda";
  request.base = "/p/base \"quoted\".raw";
  request.backing_name = "base.raw";
  request.keep_relative = true;
  const auto decoded = decode_job_record(encode_job_record(request));
  ASSERT_TRUE(decoded.has_value()) << decoded.error().what;
  EXPECT_EQ(encode_job_record(*decoded), encode_job_record(request));
  EXPECT_EQ(decoded->settings.speed_bytes_per_s, 12345678901U);
  EXPECT_EQ(decoded->settings.error_policy, on_error::enospc);
  EXPECT_EQ(decoded->base, request.base);
}

TEST(JobRecord, AnythingElseIsRefused) {
  const std::string good = encode_job_record(stream_request{});
  ASSERT_TRUE(decode_job_record(good).has_value());
  for (std::size_t length = 0; length + 2 < good.size(); ++length) {
    EXPECT_TRUE(decode_job_record(std::string_view(good).substr(0, length)).has_error()) << length;
  }
  for (const std::string_view bad : {"[]", "{}", R"({"type":"mirror"})"}) {
    EXPECT_TRUE(decode_job_record(bad).has_error()) << bad;
  }
}

}  // namespace
}  // namespace weir
