// The hand-over: the last checkpoint and the fact that the primary writes no more are there together or not at all.
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::handover_test {
namespace {

class HandoverTest : public ::testing::TestWithParam<bool> {
 protected:
  HandoverTest() : fixture_(1) {
    fixture_.options().checkpoint_durable = GetParam();
    EXPECT_EQ(fixture_.OpenStore(), absl::OkStatus());
    EXPECT_EQ(fixture_.StartAndAttach(), absl::OkStatus());
    for (size_t v = 0; v < 2; ++v) primary_.push_back(fixture_.initial(v));
  }

  absl::Status Write(uint64_t offset) {
    for (uint32_t v = 0; v < 2; ++v) {
      const std::string data = fixture_.Bytes(8192);
      if (auto status = fixture_.PrimaryWrite(v, offset, data); !status.ok()) return status;
      primary_[v].replace(offset, data.size(), data);
    }
    return absl::OkStatus();
  }
  absl::StatusOr<CheckpointResult> HandOver() {
    std::promise<absl::StatusOr<CheckpointResult>> promise;
    auto future = promise.get_future();
    const absl::Status status = fixture_.Append(
        {{.kind = OperationKind::kHandover}}, "",
        [&](absl::StatusOr<CheckpointResult> result) { promise.set_value(std::move(result)); });
    if (!status.ok()) return status;
    return future.get();
  }
  void ExpectShown() {
    for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(fixture_.View(v) == primary_[v]) << "volume " << v;
  }
  Replica& replica() { return fixture_.replica(); }

  StoreFixture fixture_;
  std::vector<std::string> primary_;
};

TEST_P(HandoverTest, ItCommitsEverythingAndNothingIsTakenAfterIt) {
  ASSERT_EQ(Write(0), absl::OkStatus());
  EXPECT_FALSE(replica().state().handing_over);
  const auto handed_over = HandOver();
  ASSERT_TRUE(handed_over.ok()) << handed_over.status();
  EXPECT_EQ(handed_over->sequence, 3u);
  EXPECT_TRUE(replica().state().handing_over);
  EXPECT_TRUE(replica().state().handed_over);
  EXPECT_EQ(replica().state().committed_epoch, handed_over->epoch);
  ExpectShown();
  EXPECT_TRUE(HasReason(fixture_.PrimaryWrite(0, 0, std::string(512, 'x')), kReasonHandedOver));
  ASSERT_TRUE(fixture_.Checkpoint().ok());
  EXPECT_TRUE(replica().state().handed_over);
  ExpectShown();
}

TEST_P(HandoverTest, ItSurvivesAKillAndAFailoverLosesNothing) {
  ASSERT_EQ(Write(0), absl::OkStatus());
  ASSERT_TRUE(HandOver().ok());
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  EXPECT_TRUE(replica().state().handed_over);
  ExpectShown();
  ASSERT_EQ(replica().AttachStream(replica().state().stream_id, false), absl::OkStatus());
  EXPECT_TRUE(HasReason(fixture_.PrimaryWrite(0, 0, std::string(512, 'x')), kReasonHandedOver));
  ASSERT_EQ(replica().Failover({}), absl::OkStatus());
  ExpectShown();
  ASSERT_EQ(replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(fixture_.RawDisk(v) == primary_[v]) << v;
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  EXPECT_TRUE(replica().state().handed_over);
}

// The frame is in the log and its batch is not in the index: recovery commits both.
TEST_P(HandoverTest, OneThatOnlyTheLogHasIsRolledForward) {
  ASSERT_EQ(Write(0), absl::OkStatus());
  ASSERT_TRUE(fixture_.MarkedCheckpoint().ok());
  ASSERT_EQ(replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  ASSERT_EQ(Write(4096), absl::OkStatus());
  ASSERT_EQ(fixture_.Append({{.kind = OperationKind::kHandover}}, "", [](const auto&) {}),
            absl::OkStatus());
  EXPECT_TRUE(replica().state().handing_over);  // at once: nothing may come between
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  EXPECT_TRUE(replica().state().handing_over);
  EXPECT_TRUE(replica().state().handed_over);
  ExpectShown();
}

TEST_P(HandoverTest, TakenBackTheStreamGoesOnWhereItWas) {
  ASSERT_EQ(replica().TakeBackHandover(), absl::OkStatus()) << "nothing to do";
  ASSERT_EQ(Write(0), absl::OkStatus());
  ASSERT_TRUE(HandOver().ok());
  const Term term = replica().state().term;
  ASSERT_EQ(replica().TakeBackHandover(), absl::OkStatus());
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  EXPECT_FALSE(replica().state().handing_over);
  EXPECT_FALSE(replica().state().handed_over);
  EXPECT_EQ(replica().state().term, term);
  ASSERT_EQ(replica().AttachStream(replica().state().stream_id, false), absl::OkStatus());
  ASSERT_EQ(Write(4096), absl::OkStatus());
  ASSERT_TRUE(fixture_.MarkedCheckpoint().ok());
  ExpectShown();
}

TEST_P(HandoverTest, ATakeoverTakesItBackWithANewTerm) {
  ASSERT_EQ(Write(0), absl::OkStatus());
  ASSERT_TRUE(HandOver().ok());
  const Term term = replica().state().term;
  ASSERT_EQ(replica().BindAgent("agent", false), absl::OkStatus());
  EXPECT_TRUE(replica().state().handed_over) << "only a takeover does";
  ASSERT_EQ(replica().BindAgent("agent", true), absl::OkStatus());
  EXPECT_EQ(replica().state().term, term.Next());
  EXPECT_FALSE(replica().state().handing_over);
  ASSERT_EQ(Write(4096), absl::OkStatus());
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  EXPECT_FALSE(replica().state().handed_over);
}

// A takeover marks the disks of the chain that is there, while the apply job publishes others.
TEST_P(HandoverTest, TakeoversBesideTheApplyJob) {
  for (int i = 0; i < 40; ++i) {
    ASSERT_EQ(Write(0), absl::OkStatus());
    ASSERT_TRUE(fixture_.Checkpoint().ok());
    const Term term = replica().state().term;
    ASSERT_EQ(replica().BindAgent(i % 2 == 0 ? "other" : "agent", true), absl::OkStatus());
    EXPECT_EQ(replica().state().term, term.Next());
  }
}

TEST_P(HandoverTest, NothingIsHandedOverWhileOperationsAreMissing) {
  ASSERT_EQ(fixture_.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  EXPECT_TRUE(HasReason(HandOver().status(), kReasonIncomplete));
  EXPECT_FALSE(replica().state().handing_over);
  EXPECT_EQ(Write(0), absl::OkStatus());
}

INSTANTIATE_TEST_SUITE_P(Durability, HandoverTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Checkpoint" : "None"; });

}  // namespace
}  // namespace understudy::storage::handover_test
