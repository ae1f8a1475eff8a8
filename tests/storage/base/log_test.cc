#include "storage/base/log.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace understudy::base::log_test {
namespace {

class LogTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogSinkForTest([this](LogLevel level, absl::string_view text) {
      levels_.push_back(level);
      lines_.emplace_back(text);
    });
  }
  void TearDown() override { SetLogSinkForTest(nullptr); }

  std::vector<LogLevel> levels_;
  std::vector<std::string> lines_;
};

TEST_F(LogTest, KeysFollowTheEventInTheOrderTheyWereGiven) {
  LogInfo("checkpoint_committed")
      .With("group", "vm1")
      .With("epoch", 12u)
      .With("took", absl::Microseconds(3100))
      .With("ignored", false);
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(lines_[0], "checkpoint_committed group=vm1 epoch=12 took=3.1ms ignored=false");
  EXPECT_EQ(levels_[0], LogLevel::kInfo);
}

TEST_F(LogTest, AValueThatWouldBreakTheLineIsQuoted) {
  LogError("e")
      .With("a", "two words")
      .With("b", "x=\"y\"")
      .With("c", "line\nbreak")
      .With("d", "")
      .With("e", "plain")
      .With("f", "a\x1b[2J\rb");
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(lines_[0],
            R"(e a="two words" b="x=\"y\"" c="line\nbreak" d="" e=plain f="a\x1b[2J\x0db")");
}

TEST_F(LogTest, AStatusShowsItsCodeAndMessage) {
  LogWarning("e").With("error", absl::NotFoundError("no disk"));
  ASSERT_EQ(lines_.size(), 1u);
  EXPECT_EQ(lines_[0], "e error=\"NOT_FOUND: no disk\"");
}

TEST(CheckTest, ABrokenPromiseEndsTheProcessAndNamesIt) {
  EXPECT_DEATH(UNDERSTUDY_CHECK(1 + 1 == 3, "sum ", 2), "check_failed.*1 \\+ 1 == 3.*sum 2");
}

}  // namespace
}  // namespace understudy::base::log_test
