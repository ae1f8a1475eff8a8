#include "server/refusal_log.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/log.h"
#include "storage/base/reason.h"

namespace understudy::server::refusal_log_test {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

class TestClock : public base::Clock {
 public:
  absl::Time Now() const override { return absl::UnixEpoch() + monotonic_; }
  absl::Duration Monotonic() const override { return monotonic_; }
  void Advance(absl::Duration duration) { monotonic_ += duration; }

 private:
  absl::Duration monotonic_;
};

class RefusalLogTest : public ::testing::Test {
 protected:
  RefusalLogTest() {
    base::SetLogSinkForTest(
        [this](base::LogLevel, absl::string_view line) { lines_.emplace_back(line); });
  }
  ~RefusalLogTest() override { base::SetLogSinkForTest(nullptr); }

  // As an agent that asks twice a second.
  void Refuse(absl::Duration duration, const absl::Status& status) {
    for (absl::Duration t; t < duration; t += absl::Milliseconds(500)) {
      log_.Refused("vm1", "host-a", status);
      clock_.Advance(absl::Milliseconds(500));
    }
  }

  const absl::Status unknown_ = WithReason(absl::NotFoundError("not open"), kReasonUnknownGroup);
  TestClock clock_;
  RefusalLog log_{clock_};
  std::vector<std::string> lines_;
};

TEST_F(RefusalLogTest, ADayOfRefusalsIsOneLineAndThenACountEachHour) {
  Refuse(absl::Hours(24), unknown_);
  ASSERT_THAT(lines_, SizeIs(24));
  EXPECT_THAT(lines_[0], AllOf(HasSubstr("stream_refused group=vm1 agent=host-a times=1"),
                               HasSubstr("not open")));
  EXPECT_THAT(lines_[1], HasSubstr(" times=7200 "));
}

TEST_F(RefusalLogTest, AnotherReasonGroupOrAgentIsNews) {
  log_.Refused("vm1", "host-a", unknown_);
  log_.Refused("vm1", "host-a", absl::FailedPreconditionError("size"));
  log_.Refused("vm1", "host-b", unknown_);
  log_.Refused("vm2", "host-a", unknown_);
  EXPECT_THAT(lines_, SizeIs(4));
  log_.Refused("vm2", "host-a", unknown_);
  EXPECT_THAT(lines_, SizeIs(4));
}

TEST_F(RefusalLogTest, WhoIsLetInTellsTheRestAndIsNewsAgain) {
  Refuse(absl::Seconds(5), unknown_);
  log_.LetIn("vm1", "host-b");
  log_.LetIn("vm1", "host-a");
  log_.LetIn("vm1", "host-a");
  log_.Refused("vm1", "host-a", unknown_);
  EXPECT_THAT(lines_, ElementsAre(HasSubstr("stream_refused"),
                                  HasSubstr("stream_refusals_over group=vm1 agent=host-a times=9"),
                                  HasSubstr("times=1 ")));
}

TEST_F(RefusalLogTest, MemoryAndLinesAreBoundedWhateverNamesCome) {
  for (size_t i = 0; i < 2 * RefusalLog::kEntriesMax; ++i) {
    const std::string name = absl::StrCat(i, std::string(1'000, 'g'));
    log_.Refused(name, "host-a", absl::NotFoundError(absl::StrCat("no group ", name)));
  }
  ASSERT_THAT(lines_, SizeIs(RefusalLog::kEntriesMax + 1));
  EXPECT_THAT(lines_.back(), HasSubstr("streams_refused group=1024g"));
  for (const std::string& line : lines_) ASSERT_LT(line.size(), 800u);
  clock_.Advance(RefusalLog::kInterval);
  log_.Refused("vm1", "host-a", unknown_);  // those that did not come for so long make room
  EXPECT_THAT(lines_.back(), HasSubstr("stream_refused group=vm1"));
}

}  // namespace
}  // namespace understudy::server::refusal_log_test
