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

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

v1::GroupStatus Running(bool incomplete) {
  v1::GroupStatus status;
  status.set_group("vm1");
  status.set_stage(v1::STAGE_RUNNING);
  status.set_connected(true);
  status.set_incomplete(incomplete);
  status.set_committed_epoch(1);
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
  const auto end = FollowSync("ctl", Answers(), progress_);
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
  EXPECT_EQ(FollowSync("ctl", Answers(), progress_).status().code(), absl::StatusCode::kAborted);
  answers_ = {absl::NotFoundError("gone")};
  EXPECT_EQ(FollowSync("ctl", Answers(), progress_).status().code(), absl::StatusCode::kNotFound);
}

// No standby, none that is complete, none with a state to take over at: each used to be "nothing is
// missing", status 0.
TEST_F(FollowTest, ASyncWaitsForAStandbyThatIsConnectedCompleteAndHasACheckpoint) {
  v1::GroupStatus nobody = Running(false);
  nobody.set_connected(false);
  nobody.clear_committed_epoch();
  v1::GroupStatus empty = Running(false);
  empty.clear_committed_epoch();
  v1::GroupStatus forward = Running(true);
  forward.add_volumes()->set_name("vda");
  answers_ = {nobody, nobody, empty, forward, Running(false)};
  const auto end = FollowSync("ctl", Answers(), progress_);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->committed_epoch(), 1u);
  EXPECT_EQ(lines_.str(),
            "vm1: waiting for the standby, which is not connected\n"
            "vm1: waiting for the first checkpoint: ctl checkpoint vm1\n"
            "vm1: waiting for the volumes to be copied, as attach does\n")
      << "each once";
}

// In a group of both kinds the resync of one never begins for what only the other lacks.
TEST_F(FollowTest, ASyncOfAMixedGroupWaitsForTheCopyThatIsMissing) {
  v1::GroupStatus tee = Running(true);
  v1::VolumeStatus& disk = *tee.add_volumes();
  disk.set_disk_path("/srv/vda.raw");
  disk.set_dirty_bytes(4096);
  tee.add_volumes()->set_name("vdb");
  v1::GroupStatus missing = tee;
  missing.mutable_volumes(0)->clear_dirty_bytes();
  missing.mutable_volumes(1)->set_dirty_bytes(4096);
  v1::GroupStatus suspect = tee;  // after kill -9 of the agent
  suspect.mutable_volumes(0)->clear_dirty_bytes();
  suspect.mutable_volumes(1)->set_suspect_bytes(4096);
  for (const v1::GroupStatus& forward : {missing, suspect}) {
    answers_ = {tee, WithJob(tee, "resync"), forward, Running(false)};
    lines_.str("");
    ASSERT_TRUE(FollowSync("ctl", Answers(), progress_).ok());
    EXPECT_THAT(lines_.str(), StartsWith("vm1: waiting for the resync to begin\n"));
    EXPECT_THAT(lines_.str(),
                EndsWith("vm1: waiting for the volumes to be copied, as attach does\n"));
  }
}

TEST_F(FollowTest, ASyncEndsWhenItCannotCome) {
  v1::GroupStatus fenced = Running(false);
  fenced.set_connected(false);
  fenced.add_errors()->set_reason("FENCED");
  fenced.mutable_errors(0)->set_message("stop this primary");
  v1::GroupStatus handed_over = Running(false);
  handed_over.set_handed_over(true);
  for (const v1::GroupStatus& status : {fenced, handed_over}) {
    answers_ = {status};
    EXPECT_EQ(FollowSync("ctl", Answers(), progress_).status().code(),
              absl::StatusCode::kFailedPrecondition);
  }
}

TEST_F(FollowTest, ASyncThatLacksNothingMayStillDiffer) {
  v1::GroupStatus status = Running(false);
  EXPECT_THAT(SyncView("ctl", status), HasSubstr("nothing is missing at the standby"));
  status.set_sync_state(v1::SYNC_STATE_DIVERGED);
  EXPECT_THAT(SyncView("ctl", status), HasSubstr("; remedy: ctl sync vm1 --full --wait\n"));
}

// A service that was restarted knows of no scrub and of no damage: it was taken for a clean one.
TEST_F(FollowTest, AScrubIsTheOneThatWasBegun) {
  v1::GroupStatus status = Running(false);
  status.mutable_scrub()->set_number(2);
  status.mutable_scrub()->set_outcome(v1::SCRUB_OUTCOME_RUNNING);
  v1::GroupStatus ended = status;
  ended.mutable_scrub()->set_outcome(v1::SCRUB_OUTCOME_CLEAN);
  answers_ = {status, absl::UnavailableError("lost"), ended};
  const auto end = FollowScrub("ctl", 2, Answers(), progress_);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->scrub().outcome(), v1::SCRUB_OUTCOME_CLEAN);
  answers_ = {Running(false)};
  EXPECT_EQ(FollowScrub("ctl", 2, Answers(), progress_).status().code(),
            absl::StatusCode::kAborted);
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
  EXPECT_THAT(VerifyView("understudyctl", *end),
              HasSubstr("verify 2 DIFFERENT, 0 B compared, 4 KiB different"));
  EXPECT_THAT(VerifyView("understudyctl", *end), HasSubstr("understudyctl sync vm1 --full --wait"));
  answers_ = {Running(false)};
  EXPECT_EQ(FollowVerify(2, Answers(), progress_).status().code(), absl::StatusCode::kAborted);
}

}  // namespace
}  // namespace understudy::ctl::follow_test
