// "In sync" is said when it is known, and what was known once stays known over restarts of the agent: what may differ since is in its files.
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/client/resync_fixture.h"

namespace understudy::client::in_sync_test {
namespace {

class InSyncTest : public ResyncFixture {
 protected:
  void Started() {
    ASSERT_TRUE(Make().Start(false, Soon()).ok());
    Write(0, 'a', 64 << 10);
    ASSERT_TRUE(primary_->Checkpoint(Soon()).ok());
  }
  void Verify() {
    const auto number = primary_->Verify(0);
    ASSERT_TRUE(number.ok()) << number.status();
    ASSERT_TRUE(Eventually([&] {
      const VerifyState verify = primary_->resync().verify();
      return verify.number == *number && verify.outcome != VerifyOutcome::kRunning;
    }));
  }
  void RestartInOrder() {
    primary_->Shutdown(absl::Seconds(1));
    Make();
    ASSERT_TRUE(Eventually([&] { return Complete(); }));
  }
  void RestartAfterKill() {
    Kill();
    Make();
    ASSERT_TRUE(Eventually([&] { return Complete(); }));
  }
};

TEST_F(InSyncTest, WhatAVerifyHasProvedOutlivesRestarts) {
  Started();
  Verify();
  ASSERT_EQ(primary_->sync_state(), SyncState::kInSync);
  const uint64_t compared = transport_.seen().compared_bytes;
  RestartInOrder();
  EXPECT_EQ(primary_->sync_state(), SyncState::kInSync);
  EXPECT_EQ(transport_.seen().compared_bytes, compared) << "nothing needs to be compared";

  Outage(true);  // what is written now is lost with the agent
  Write(9 * kMiB, 'b');
  RestartAfterKill();
  EXPECT_EQ(primary_->sync_state(), SyncState::kInSync);
  EXPECT_GT(transport_.seen().compared_bytes, compared);
  EXPECT_LE(transport_.seen().compared_bytes - compared, 8 * kMiB) << "what was being written";
  ExpectEqualAfterCheckpoint();
}

TEST_F(InSyncTest, WhatNobodyHasProvedIsAssumed) {
  Started();
  ASSERT_EQ(primary_->sync_state(), SyncState::kAssumed);
  RestartInOrder();
  EXPECT_EQ(primary_->sync_state(), SyncState::kAssumed);
  Write(9 * kMiB, 'b');
  RestartAfterKill();
  EXPECT_EQ(primary_->sync_state(), SyncState::kAssumed);
}

TEST_F(InSyncTest, WhatAVerifyHasRefutedIsNotForgotten) {
  Started();
  Verify();
  transport_.Corrupt(20 * kMiB, 'z');
  Verify();
  ASSERT_EQ(primary_->sync_state(), SyncState::kDiverged);
  RestartInOrder();
  EXPECT_EQ(primary_->sync_state(), SyncState::kDiverged);
  RestartAfterKill();
  EXPECT_EQ(primary_->sync_state(), SyncState::kDiverged);
  ASSERT_TRUE(primary_->Sync(SyncMode::kFull, Soon()).ok());
  ExpectEqualAfterCheckpoint();
  EXPECT_TRUE(Becomes(SyncState::kInSync));
  EXPECT_TRUE(Eventually([&] { return primary_->errors().empty(); }));
}

TEST_F(InSyncTest, AFirstSyncInSeveralRunsIsAProof) {
  transport_.Set([](auto& b) {
    b.incomplete = true;  // initial=sync
    b.refuse_checksums = absl::UnavailableError("not yet");
  });
  ASSERT_TRUE(Make().Start(false, Soon()).ok());
  Write(0, 'a', 64 << 10);
  EXPECT_TRUE(Becomes(SyncState::kBehind));
  primary_->Shutdown(absl::Seconds(1));
  Make();
  ASSERT_TRUE(Eventually([&] { return primary_->forwarder().state().connected; }));
  Kill();
  Make();
  transport_.Set([](auto& b) { b.refuse_checksums = absl::OkStatus(); });
  ExpectEqualAfterCheckpoint();
  EXPECT_TRUE(Becomes(SyncState::kInSync));
  EXPECT_GE(transport_.seen().compared_bytes, kDiskBytes);
}

TEST_F(InSyncTest, ANewPairHasProvedNothing) {
  transport_.Set([](auto& b) { b.strict_streams = false; });
  Started();
  Verify();
  ASSERT_EQ(primary_->sync_state(), SyncState::kInSync);
  ASSERT_TRUE(primary_->Stop(true, Soon()).ok());
  ASSERT_TRUE(primary_->Remove(Soon()).ok());
  ASSERT_TRUE(primary_->Start(false, Soon()).ok());
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  EXPECT_EQ(primary_->sync_state(), SyncState::kAssumed);
  RestartInOrder();
  EXPECT_EQ(primary_->sync_state(), SyncState::kAssumed);
}

TEST_F(InSyncTest, WhoeverWroteTheDiskInForwardModeNeedsToBeCompared) {
  Started();
  Verify();
  primary_->Shutdown(absl::Seconds(1));
  forward_ = true;
  Make();
  ASSERT_TRUE(Eventually([&] { return Complete(); }));
  EXPECT_EQ(primary_->sync_state(), SyncState::kAssumed);
  primary_->Shutdown(absl::Seconds(1));
  forward_ = false;
  const uint64_t compared = transport_.seen().compared_bytes;
  Make();
  ExpectEqualAfterCheckpoint();
  EXPECT_GE(transport_.seen().compared_bytes - compared, kDiskBytes);
}

// The state directory's file system is full, or takes nothing for another reason, just then.
TEST_F(InSyncTest, ARefutationThatCouldNotBeStoredIsStoredLater) {
  Started();
  Verify();
  ASSERT_EQ(primary_->sync_state(), SyncState::kInSync);
  transport_.Corrupt(20 * kMiB, 'z');
  std::filesystem::create_directory(
      directory_.File("state/agent.tmp"));  // the file cannot be replaced
  Verify();
  ASSERT_EQ(primary_->sync_state(), SyncState::kDiverged);
  std::filesystem::remove(directory_.File("state/agent.tmp"));
  Write(9 * kMiB, 'b');
  RestartInOrder();
  EXPECT_EQ(primary_->sync_state(), SyncState::kDiverged);
}

}  // namespace
}  // namespace understudy::client::in_sync_test
