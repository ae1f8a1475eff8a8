#include "client/ctl/follow.h"

#include <deque>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/ctl/progress.h"
#include "understudy/v1/replication.pb.h"

namespace understudy::ctl::follow_test {
namespace {

using ::testing::HasSubstr;

v1::GroupStatus Running(bool incomplete) {
  v1::GroupStatus status;
  status.set_group("vm1");
  status.set_stage(v1::STAGE_RUNNING);
  status.set_connected(true);
  status.set_incomplete(incomplete);
  return status;
}

v1::GroupStatus WithJob(v1::GroupStatus status, const std::string& kind) {
  v1::JobStatus& job = *status.add_jobs();
  job.set_kind(kind);
  job.set_done_bytes(1 << 20);
  job.set_total_bytes(4 << 20);
  return status;
}

class FollowTest : public ::testing::Test {
 protected:
  StatusCall Answers() {
    return [this]() -> absl::StatusOr<v1::GroupStatus> {
      auto next = answers_.front();
      if (answers_.size() > 1) answers_.pop_front();
      return next;
    };
  }
  std::deque<absl::StatusOr<v1::GroupStatus>> answers_;
  std::ostringstream out_, lines_;
  Progress progress_{/*live=*/false, out_, lines_};
};

TEST_F(FollowTest, ASyncIsFollowedOverARestartOfTheAgent) {
  answers_ = {Running(true), absl::UnavailableError("restarting"), WithJob(Running(true), "resync"),
              Running(false)};
  const auto end = FollowSync(Answers(), progress_);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_FALSE(end->incomplete());
  EXPECT_THAT(lines_.str(), HasSubstr("vm1: waiting for the resync to begin\n"));
  EXPECT_THAT(lines_.str(),
              HasSubstr("vm1: resync [#######.......................] 25 %, 1 MiB of 4 MiB"));
  EXPECT_EQ(out_.str(), "");
}

TEST_F(FollowTest, ASyncEndsWithTheStage) {
  v1::GroupStatus stopped = Running(true);
  stopped.set_stage(v1::STAGE_DONE);
  answers_ = {stopped};
  EXPECT_EQ(FollowSync(Answers(), progress_).status().code(), absl::StatusCode::kAborted);
  answers_ = {absl::NotFoundError("gone")};
  EXPECT_EQ(FollowSync(Answers(), progress_).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(FollowTest, AVerifyIsTheOneThatWasBegun) {
  v1::GroupStatus status = Running(false);
  status.mutable_verify()->set_number(2);
  v1::GroupStatus ended = status;
  ended.mutable_verify()->set_outcome(v1::VERIFY_OUTCOME_DIFFERENT);
  ended.mutable_verify()->set_different_bytes(4096);
  answers_ = {WithJob(status, "verify"), ended};
  const auto end = FollowVerify(2, Answers(), progress_);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_THAT(lines_.str(), HasSubstr("vm1: verify ["));
  EXPECT_THAT(VerifyView(*end), HasSubstr("verify 2 DIFFERENT, 0 B compared, 4 KiB different"));
  EXPECT_THAT(VerifyView(*end), HasSubstr("understudyctl sync vm1 --full --wait"));
  answers_ = {Running(false)};
  EXPECT_EQ(FollowVerify(2, Answers(), progress_).status().code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace understudy::ctl::follow_test
