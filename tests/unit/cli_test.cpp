#include "cli/chain_map.hpp"
#include "cli/option_set.hpp"
#include "cli/progress.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace weir::cli {
namespace {

using namespace std::chrono_literals;

option_set sample() {
  option_set options;
  options.flag("json", "").value("format,f", "FMT", "").values("options,o", "KEY", "").progress();
  options.argument("IMAGE", "").optional_argument("SIZE", "");
  return options;
}

outcome<given_options> parse(const std::vector<std::string>& words) {
  return sample().parse(words);
}

TEST(OptionSet, OptionsAndArgumentsInAnyOrder) {
  const auto given = parse({"a.img", "-f", "raw", "-o", "x=1", "--json", "-ox=2", "5M", "-p"});
  ASSERT_TRUE(given.has_value()) << given.error().what;
  EXPECT_TRUE(given->has("json"));
  EXPECT_EQ(given->value("format"), "raw");
  EXPECT_EQ(given->values("options"), (std::vector<std::string>{"x=1", "x=2"}));
  EXPECT_EQ(given->value("IMAGE"), "a.img");
  EXPECT_EQ(given->size("SIZE").value(), 5U << 20);
  EXPECT_EQ(given->value("progress"), "bar");
}

TEST(OptionSet, AnOptionalValueMustBeAdjacent) {
  const auto given = parse({"--progress", "json"});
  ASSERT_TRUE(given.has_value());
  EXPECT_EQ(given->value("progress"), "bar");
  EXPECT_EQ(given->value("IMAGE"), "json");
  EXPECT_EQ(parse({"--progress=json", "a"})->value("progress"), "json");
}

TEST(OptionSet, WhatIsNotUnderstoodIsUsage) {
  const std::vector<std::vector<std::string>> wrong{{},
                                                    {"a", "1M", "c"},
                                                    {"--nope", "a"},
                                                    {"--for", "raw", "a"},
                                                    {"-f"},
                                                    {"a", "--json=1"},
                                                    {"-f", "raw", "-f", "qed", "a"}};
  for (const auto& words : wrong) {
    const auto given = parse(words);
    ASSERT_TRUE(given.has_error()) << testing::PrintToString(words);
    EXPECT_TRUE(is_usage(given.error()));
  }
}

TEST(OptionSet, WordsAfterTwoDashesAreArguments) {
  EXPECT_EQ(parse({"--", "-f"})->value("IMAGE"), "-f");
}

TEST(OptionSet, EmptyValuesAreValues) {
  EXPECT_EQ(parse({"-f", "", "a"})->value("format"), "");
  EXPECT_EQ(parse({""})->value("IMAGE"), "");
}

TEST(ProgressReport, ABarAtMostTenTimesASecondAndOnceAtTheEnd) {
  const progress_report::clock::time_point start{};
  progress_report report(progress_style::bar, "pull", start);
  EXPECT_NE(report.update(0, 1 << 20, start), "");
  EXPECT_EQ(report.update(1 << 10, 1 << 20, start + 50ms), "");
  const std::string half = report.update(1 << 19, 1 << 20, start + 1s);
  EXPECT_NE(half.find("50.0 %"), std::string::npos) << half;
  EXPECT_NE(half.find("512.0 KiB/s"), std::string::npos) << half;
  EXPECT_NE(half.find("ETA 00:01"), std::string::npos) << half;
  EXPECT_NE(report.finish(start + 2s).find('\n'), std::string::npos);
}

TEST(ProgressReport, TheRateLeavesOutWhatAnEarlierRunDid) {
  const progress_report::clock::time_point start{};
  progress_report report(progress_style::json, "pull", start);
  static_cast<void>(report.update(1 << 20, 3 << 20, start));
  const std::string line = report.update(2 << 20, 3 << 20, start + 1s);
  EXPECT_EQ(line, "{\"offset\":2097152,\"len\":3145728,\"rate\":1048576,\"seconds\":1.000}\n");
  EXPECT_EQ(report.update(3 << 20, 3 << 20, start + 1500ms), "");
}

TEST(ProgressReport, NothingWhereNoneIsWanted) {
  progress_report report(progress_style::none, "pull", {});
  EXPECT_EQ(report.update(1, 2, progress_report::clock::time_point{} + 9s), "");
  EXPECT_EQ(report.finish(progress_report::clock::time_point{} + 10s), "");
}

TEST(ChainMap, NeighboursJoinOnlyWhereTheirBytesDo) {
  map_run first;
  first.length = 100;
  first.present = first.data = true;
  first.offset = 1000;
  map_run next = first;
  next.start = 100;
  next.offset = 1100;
  map_run joined = first;
  EXPECT_TRUE(extend_run(joined, next));
  EXPECT_EQ(joined.length, 200U);
  next.offset = 1101;
  EXPECT_FALSE(extend_run(joined, next));
  next.offset = 1200;
  next.depth = 1;
  EXPECT_FALSE(extend_run(joined, next));
}

}  // namespace
}  // namespace weir::cli
