#include "storage/base/ids.h"

#include <string>

#include <gtest/gtest.h>

namespace understudy::ids_test {
namespace {

TEST(IncarnationTest, HexGoesThereAndBack) {
  const Incarnation incarnation{.high = 0x0123456789abcdef, .low = 0xfedcba9876543210};
  EXPECT_EQ(incarnation.ToHex(), "0123456789abcdeffedcba9876543210");
  const absl::StatusOr<Incarnation> back = Incarnation::FromHex(incarnation.ToHex());
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, incarnation);
  EXPECT_TRUE(Incarnation().none());
  EXPECT_FALSE(incarnation.none());
}

TEST(IncarnationTest, HexOfAnotherLengthOrWithOtherLettersIsRefused) {
  for (const char* text :
       {"", "0123", "0123456789abcdeffedcba987654321", "g123456789abcdeffedcba9876543210",
        "0123456789abcdeffedcba98765432100"}) {
    EXPECT_EQ(Incarnation::FromHex(text).status().code(), absl::StatusCode::kInvalidArgument)
        << text;
  }
}

TEST(NamesTest, NamesOfTheDocumentedFormPass) {
  for (const std::string& name : {std::string("a"), std::string("vm1"), std::string("a-b.c"),
                                  std::string("0"), std::string(63, 'x')}) {
    EXPECT_TRUE(CheckName("group", name).ok()) << name;
  }
  EXPECT_TRUE(CheckTopId("vm1/root").ok());
  EXPECT_TRUE(CheckTopId(std::string(127, 'x')).ok());
}

TEST(NamesTest, AnythingElseIsRefusedWithTheNounAndTheValue) {
  for (const std::string& name :
       {std::string(), std::string("-a"), std::string("a-"), std::string(".a"), std::string("A"),
        std::string("a b"), std::string("a/b"), std::string("a_b"), std::string("\xc3\xa4"),
        std::string("a\0b", 3), std::string(64, 'x')}) {
    const absl::Status status = CheckName("volume", name);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_NE(std::string(status.message()).find("volume name \"" + name + "\""),
              std::string::npos);
  }
  EXPECT_FALSE(CheckTopId("/root").ok());
  EXPECT_FALSE(CheckTopId("root/").ok());
  EXPECT_FALSE(CheckTopId(std::string(128, 'x')).ok());
}

TEST(StrongNumberTest, NextCountsUpAndOrderIsThatOfTheNumbers) {
  EXPECT_EQ(Epoch(3).Next(), Epoch(4));
  EXPECT_LT(Term(3), Term(4));
}

TEST(StageTest, NamesAreThoseOfTheProtocol) {
  EXPECT_EQ(std::string(StageName(Stage::kFailoverFailed)), "FAILOVER_FAILED");
  EXPECT_EQ(std::string(StageName(Stage::kNone)), "NONE");
}

}  // namespace
}  // namespace understudy::ids_test
