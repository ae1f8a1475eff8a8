// Lock-step checkpoints: an epoch that is prepared belongs to no view until it is committed, and to the next one if it never is.
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::prepare_test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kVolumeBytes = 1 << 20;

class PrepareTest : public ::testing::TestWithParam<bool> {
 protected:
  PrepareTest() : fixture_(1) {
    fixture_.options().checkpoint_durable = GetParam();
    fixture_.options().history_epochs = 8;
    EXPECT_EQ(fixture_.OpenStore(), absl::OkStatus());
    EXPECT_EQ(fixture_.StartAndAttach(), absl::OkStatus());
    for (size_t v = 0; v < 2; ++v) primary_.push_back(fixture_.initial(v));
    shown_ = primary_;
  }

  // A write of the primary to both volumes.
  void Write(uint64_t offset) {
    for (uint32_t v = 0; v < 2; ++v) {
      const std::string data = fixture_.Bytes(8192);
      ASSERT_EQ(fixture_.PrimaryWrite(v, offset, data), absl::OkStatus());
      primary_[v].replace(offset, data.size(), data);
    }
  }
  absl::StatusOr<CheckpointResult> Prepare() {
    std::promise<absl::StatusOr<CheckpointResult>> promise;
    auto future = promise.get_future();
    const absl::Status status = fixture_.Append(
        {{.kind = OperationKind::kPrepare}}, "",
        [&](absl::StatusOr<CheckpointResult> result) { promise.set_value(std::move(result)); });
    if (!status.ok()) return status;
    return future.get();
  }
  void ExpectShown() {
    for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(fixture_.View(v) == shown_[v]) << "volume " << v;
  }
  Replica& replica() { return fixture_.replica(); }

  StoreFixture fixture_;
  std::vector<std::string> primary_;
  std::vector<std::string> shown_;
};

TEST_P(PrepareTest, APreparedEpochIsSeenOnlyOnceItIsCommitted) {
  Write(0);
  const auto prepared = Prepare();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(replica().state().prepared_epoch, prepared->epoch);
  EXPECT_EQ(replica().state().prepared_sequence, 3u);
  EXPECT_EQ(replica().state().usage[0].hidden_bytes, 8192u);
  ExpectShown();
  const std::vector<std::string> at_marker = primary_;
  Write(4096);  // of the next epoch
  const std::string active(4096, 'a');
  ASSERT_EQ(replica().Write(VolumeId(0), 65536, active, false), absl::OkStatus());
  const auto committed = replica().CommitPrepared(prepared->epoch);
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(committed->epoch, prepared->epoch);
  EXPECT_EQ(committed->sequence, 3u);
  EXPECT_EQ(replica().state().prepared_epoch, Epoch());
  shown_ = at_marker;  // and what the VM had written is dropped
  ExpectShown();
  EXPECT_EQ(replica().CommitPrepared(prepared->epoch)->epoch, prepared->epoch) << "repeated";
  ASSERT_TRUE(fixture_.MarkedCheckpoint().ok());
  shown_ = primary_;
  ExpectShown();
}

TEST_P(PrepareTest, WhatIsAbandonedIsPartOfTheNextCheckpoint) {
  Write(0);
  const Epoch prepared = Prepare()->epoch;
  EXPECT_EQ(*replica().AbandonPrepared(), prepared);
  EXPECT_EQ(*replica().AbandonPrepared(), Epoch()) << "nothing left";
  const absl::Status late = replica().CommitPrepared(prepared).status();
  EXPECT_TRUE(HasReason(late, kReasonNotPrepared)) << late;
  EXPECT_THAT(std::string(late.message()), HasSubstr("epoch 1 is not prepared (none is)"));
  ExpectShown();
  Write(16384);
  const auto committed = fixture_.MarkedCheckpoint();
  ASSERT_TRUE(committed.ok()) << committed.status();
  EXPECT_EQ(committed->epoch, prepared.Next());
  shown_ = primary_;
  ExpectShown();
}

TEST_P(PrepareTest, ANewerMarkerTakesTheChoiceAway) {
  Write(0);
  const Epoch first = Prepare()->epoch;
  Write(4096);
  const Epoch second = Prepare()->epoch;
  const absl::Status late = replica().CommitPrepared(first).status();
  EXPECT_TRUE(HasReason(late, kReasonNotPrepared)) << late;
  EXPECT_THAT(std::string(late.message()), HasSubstr("(epoch 2 is)"));
  ASSERT_TRUE(replica().CommitPrepared(second).ok());
  shown_ = primary_;
  ExpectShown();
}

TEST_P(PrepareTest, EveryStepSurvivesAKill) {
  Write(0);
  const Epoch first = Prepare()->epoch;
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(replica().state().prepared_epoch, first);
  EXPECT_EQ(replica().state().prepared_sequence, 3u);
  ExpectShown();
  ASSERT_EQ(replica().AttachStream(replica().state().stream_id, false), absl::OkStatus());
  Write(4096);
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  ASSERT_TRUE(replica().CommitPrepared(first).ok());
  shown_ = primary_;
  for (uint32_t v = 0; v < 2; ++v) {  // without the write behind the marker
    shown_[v] = fixture_.initial(v);
    shown_[v].replace(0, 4096, primary_[v].substr(0, 4096));
  }
  const std::string tail = fixture_.View(0).substr(4096, 4096);
  EXPECT_NE(tail, primary_[0].substr(4096, 4096));
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(replica().state().committed_epoch, first);
  EXPECT_EQ(fixture_.View(0).substr(0, 4096), shown_[0].substr(0, 4096));
  ASSERT_EQ(replica().AttachStream(replica().state().stream_id, false), absl::OkStatus());
  ASSERT_TRUE(Prepare().ok());
  ASSERT_TRUE(replica().AbandonPrepared().ok());
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(replica().state().prepared_epoch, Epoch()) << "an abandoned one came back";
  ASSERT_TRUE(fixture_.Checkpoint().ok());
  shown_ = primary_;
  ExpectShown();
}

TEST_P(PrepareTest, AFailoverDropsItAndItsSpaceComesBack) {
  Write(0);
  ASSERT_TRUE(fixture_.MarkedCheckpoint().ok());
  shown_ = primary_;
  Write(4096);
  ASSERT_TRUE(Prepare().ok());
  ASSERT_EQ(replica().Failover({}), absl::OkStatus());
  ASSERT_EQ(replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(replica().state().stage, Stage::kDone);
  EXPECT_EQ(replica().state().prepared_epoch, Epoch());
  ExpectShown();
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(fixture_.RawDisk(v) == shown_[v]) << v;
  ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(replica().state().overlay_bytes, 0u);
  EXPECT_EQ(replica().state().stage, Stage::kDone);
  ExpectShown();
}

TEST_P(PrepareTest, StopAndFailoverOfTheReceivedCommitItWithTheRest) {
  Write(0);
  ASSERT_TRUE(Prepare().ok());
  Write(4096);
  ASSERT_EQ(replica().Failover({.received = true}), absl::OkStatus());
  shown_ = primary_;
  ExpectShown();
  ASSERT_EQ(replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(fixture_.RawDisk(v) == shown_[v]) << v;
}

// A marker whose answer was lost comes again.
TEST_P(PrepareTest, ARepeatedMarkerIsAnsweredWithItsEpoch) {
  Write(0);
  const Epoch prepared = Prepare()->epoch;
  fixture_.set_next_sequence(3);
  EXPECT_EQ(Prepare()->epoch, prepared);
  ASSERT_TRUE(replica().AbandonPrepared().ok());
  fixture_.set_next_sequence(3);
  const absl::Status gone = Prepare().status();
  EXPECT_TRUE(HasReason(gone, kReasonNotPrepared)) << gone;
}

TEST_P(PrepareTest, NothingIsPreparedWhileOperationsAreMissing) {
  ASSERT_EQ(fixture_.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  const absl::Status refused = Prepare().status();
  EXPECT_TRUE(HasReason(refused, kReasonIncomplete)) << refused;
  EXPECT_EQ(replica().state().prepared_epoch, Epoch());
}

// What was whole at its marker may be committed, whatever is missing since.
TEST_P(PrepareTest, AnEpochThatWasPreparedBeforeOperationsWereMissedCanBeCommitted) {
  Write(0);
  const Epoch prepared = Prepare()->epoch;
  ASSERT_EQ(fixture_.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  ASSERT_TRUE(replica().CommitPrepared(prepared).ok());
  shown_ = primary_;
  ExpectShown();
  EXPECT_TRUE(HasReason(fixture_.Checkpoint().status(), kReasonIncomplete));
}

INSTANTIATE_TEST_SUITE_P(Durability, PrepareTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "Checkpoint" : "None"; });

}  // namespace
}  // namespace understudy::storage::prepare_test
