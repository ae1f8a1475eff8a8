#include "storage/base/config_file.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include <gtest/gtest.h>

namespace understudy::base::config_file_test {
namespace {

// "NUMBER KEY" and each value in angle brackets; "NUMBER! PROBLEM". One line each.
std::string Parsed(const std::string& text) {
  const ConfigLines parsed = ParseConfig(text);
  std::vector<std::string> lines;
  for (const ConfigLine& line : parsed.lines) {
    lines.push_back(absl::StrCat(line.number, " ", line.key));
    for (const std::string& value : line.values) absl::StrAppend(&lines.back(), " <", value, ">");
  }
  for (const auto& [number, problem] : parsed.problems) {
    lines.push_back(absl::StrCat(number, "! ", problem));
  }
  return absl::StrJoin(lines, "\n");
}

TEST(ConfigFileTest, AnUnquotedValueIsTheRestOfItsLine) {
  EXPECT_EQ(Parsed("data-dir = /srv/my data"), "1 data-dir </srv/my data>");
  EXPECT_EQ(Parsed("a=b,c;d\n"), "1 a <b,c;d>");
  EXPECT_EQ(Parsed("\t a  =  /o'brien \\n x=y \r\n\n"), "1 a </o'brien \\n x=y>");
  EXPECT_EQ(Parsed("a ="), "1 a <>");
}

TEST(ConfigFileTest, AQuotedValueIsWhatIsBetweenTheQuotes) {
  EXPECT_EQ(Parsed(R"(a = "b # c, d ; e = '[f]' \ ")"), R"(1 a <b # c, d ; e = '[f]' \ >)");
  EXPECT_EQ(Parsed("a = 'say \"b\"'# c"), "1 a <say \"b\">");
  EXPECT_EQ(Parsed("a = \"\""), "1 a <>");
}

TEST(ConfigFileTest, ACommentIsALineOrFollowsABlank) {
  EXPECT_EQ(Parsed("# a = b\n  ; c = d\n\nkey = 24 # a day"), "4 key <24>");
  EXPECT_EQ(Parsed("key = # nothing"), "1 key <>");
  EXPECT_EQ(Parsed("start # now"), "1 start");
}

TEST(ConfigFileTest, AListMayGoOverLines) {
  EXPECT_EQ(Parsed("v = ['a,disk=/x', \"b\", /c d ]  # three\nw = 1"),
            "1 v <a,disk=/x> <b> </c d>\n2 w <1>");
  EXPECT_EQ(Parsed("v = [ # of them\n  \"a\",\n\n  # the second\n  'b',\n]\nw = 1"),
            "1 v <a> <b>\n7 w <1>");
  EXPECT_EQ(Parsed("v = 'a' , \"b\""), "1 v <a> <b>");
}

TEST(ConfigFileTest, WhatIsNotUnderstoodIsAProblemOfItsLineAndNothingIsCut) {
  const char* const wrong[][2] = {
      {"[section]", "[section]: there are no sections; leave this line out"},
      {"a = b#c", "b#c: put the value in quotes, or a blank before the # of a comment"},
      {"a = b ; c", "b ; c: put the value in quotes; behind a value, a comment begins with #"},
      {"a = \"b", "the quote before b is not closed in this line"},
      {"a = \"b\" c", "c follows the value"},
      {"a = 'b', c", "c follows a comma and has no quotes"},
      {"a = [b, c", "the list that begins here has no ]"},
      {"a = [b] c", "c follows the list"},
      {"a = ['b' 'c']", "'c'] follows without a comma"},
      {"a = [,b]", "a value is missing before ,b]"},
      {"a = [b#c]", "b#c: put the value in quotes"},
      {"a = []", "the list is empty"},
  };
  for (const auto& [text, problem] : wrong) {
    EXPECT_EQ(Parsed(absl::StrCat("x = 1\n", text)), absl::StrCat("1 x <1>\n2! ", problem));
  }
}

TEST(ConfigFileTest, EveryProblemIsTold) {
  EXPECT_EQ(Parsed("[a]\nb = 1\nc = 'd"),
            "2 b <1>\n1! [a]: there are no sections; leave this line out\n"
            "3! the quote before d is not closed in this line");
}

}  // namespace
}  // namespace understudy::base::config_file_test
