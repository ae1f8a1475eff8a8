#include "storage/base/text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace understudy::base::text_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(TextTest, Utf8StaysAsItIs) {
  for (const char* text : {"", "/srv/vm1.raw", "/srv/Z\xc3\xbcrich", "\xe2\x82\xac", "\xef\xbf\xbf",
                           "\xf0\x9f\x92\xbe", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf", "\n\x01"}) {
    EXPECT_EQ(ToUtf8(text), text);
    EXPECT_TRUE(CheckUtf8("--volume", text).ok()) << text;
  }
}

TEST(TextTest, WhatIsNoUtf8IsSpelledByteByByte) {
  EXPECT_EQ(ToUtf8("/srv/\xfc.raw"), "/srv/\\xfc.raw");
  EXPECT_EQ(ToUtf8("a\xe2\x82"), "a\\xe2\\x82") << "cut off";
  EXPECT_EQ(ToUtf8("\xc0\xaf"), "\\xc0\\xaf") << "overlong";
  EXPECT_EQ(ToUtf8("\xe0\x80\xaf"), "\\xe0\\x80\\xaf") << "overlong";
  EXPECT_EQ(ToUtf8("\xed\xa0\x80"), "\\xed\\xa0\\x80") << "a surrogate";
  EXPECT_EQ(ToUtf8("\xf4\x90\x80\x80"), "\\xf4\\x90\\x80\\x80") << "above U+10FFFF";
  EXPECT_EQ(ToUtf8("\x80\xc3\xbc"), "\\x80\xc3\xbc");
  const absl::Status status = CheckUtf8("--disk-dir", "/srv/\xfc");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("--disk-dir: \"/srv/\\xfc\" is not UTF-8"), HasSubstr("remedy")));
}

TEST(TextTest, ADoubledCommaIsAComma) {
  EXPECT_THAT(SplitFields("vda,disk=/a,,b,size=1"), ElementsAre("vda", "disk=/a,b", "size=1"));
  EXPECT_THAT(SplitFields(""), ElementsAre(""));
  EXPECT_THAT(SplitFields("a,"), ElementsAre("a", ""));
  EXPECT_THAT(SplitFields("a,,,b"), ElementsAre("a,", "b"));
  EXPECT_THAT(SplitFields(",,,,"), ElementsAre(",,"));
}

}  // namespace
}  // namespace understudy::base::text_test
