// A started group whose disk is away after a restart: nothing that it holds is given up, no restart is needed when the disk comes back,
// and it can be got rid of when it does not.
#include <filesystem>
#include <future>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::missing_disk_test {
namespace {

constexpr uint64_t kVolumeBytes = 1 << 20;

class MissingDiskTest : public ::testing::Test, private ReplicaListener {
 protected:
  MissingDiskTest() : f_(1, 2, kVolumeBytes) {}
  // A running group with a checkpoint, a write of the VM and one of the primary, whose disk is away after a restart.
  void LoseDisk() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    ASSERT_EQ(f_.PrimaryWrite(0, 0, std::string(4096, 'c')), absl::OkStatus());
    ASSERT_TRUE(f_.MarkedCheckpoint().ok());
    ASSERT_EQ(f_.replica().Write(VolumeId(0), 8192, std::string(4096, 'a'), true),
              absl::OkStatus());
    ASSERT_EQ(f_.PrimaryWrite(0, 16384, std::string(4096, 'h')), absl::OkStatus());
    view_ = f_.View(0);
    Restart();
  }
  void LoseDiskBeforeSync() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    Restart();
  }
  void Restart() {
    f_.CloseStore();
    MoveAway();
    auto store = Store::Open(f_.options(), f_.files(), base::Clock::Real(), f_.random());
    ASSERT_EQ(store.status(), absl::OkStatus());
    store_ = *std::move(store);
    replica_ = store_->Find("vm1").value();
    replica_->SetListener(this);
  }
  void TearDown() override {
    replica_ = nullptr;
    store_ = nullptr;
    f_.CloseStore();
  }
  void MoveAway() { std::filesystem::rename(DiskPath(0), DiskPath(0) + ".away"); }
  void PutBack() { std::filesystem::rename(DiskPath(0) + ".away", DiskPath(0)); }
  std::string View() {
    std::string out(kVolumeBytes, '?');
    const absl::Status read =
        replica_->Read(VolumeId(0), 0, std::span<char>(out.data(), out.size()));
    return read.ok() ? out : read.ToString();
  }
  absl::Status Checkpoint() {
    std::promise<absl::Status> done;
    replica_->RequestCheckpoint(
        [&](const absl::StatusOr<CheckpointResult>& result) { done.set_value(result.status()); });
    return done.get_future().get();
  }

  void OnBackgroundError(const BackgroundError& error) override { operation_ = error.operation; }
  void OnChange() override {}
  std::string DiskPath(size_t volume) { return f_.spec().volumes[volume].disk_path; }

  StoreFixture f_;
  std::string operation_;  // of the newest error
  std::string view_;
  std::unique_ptr<Store> store_;
  std::shared_ptr<Replica> replica_;
};

TEST_F(MissingDiskTest, PutBackTheNextCheckpointGoesOn) {
  LoseDisk();
  const absl::Status refused = Checkpoint();
  EXPECT_THAT(std::string(refused.message()),
              ::testing::HasSubstr("repeat the call, or stop the group with --failover"));
  EXPECT_FALSE(replica_->Stop().ok());
  EXPECT_EQ(replica_->state().stage, Stage::kRunning);
  EXPECT_THAT(std::string(replica_->state().failure.message()), ::testing::HasSubstr(DiskPath(0)));
  PutBack();
  ASSERT_EQ(Checkpoint(), absl::OkStatus());
  EXPECT_EQ(replica_->state().failure, absl::OkStatus());
  std::string expected = f_.initial(0);
  expected.replace(0, 4096, 4096, 'c').replace(16384, 4096, 4096, 'h');
  EXPECT_TRUE(View() == expected);
  ASSERT_EQ(replica_->Stop(), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0) == expected);
}

TEST_F(MissingDiskTest, PutBackTheAgentsStreamGoesOn) {
  LoseDisk();
  const uint64_t stream = replica_->state().stream_id;
  EXPECT_FALSE(replica_->AttachStream(stream, false).ok());
  PutBack();
  EXPECT_EQ(replica_->AttachStream(stream, false), absl::OkStatus());
  EXPECT_FALSE(replica_->state().incomplete);
  EXPECT_TRUE(View() == view_);
}

TEST_F(MissingDiskTest, PutBackAStopGoesOn) {
  LoseDisk();
  PutBack();
  EXPECT_EQ(replica_->Stop(), absl::OkStatus());
  EXPECT_EQ(replica_->state().stage, Stage::kDone);
}

TEST_F(MissingDiskTest, AFailoverWithoutItKeepsEverythingForTheRetry) {
  LoseDisk();
  EXPECT_FALSE(replica_->Failover({.received = true}).ok());
  EXPECT_EQ(replica_->state().stage, Stage::kRunning);
  ASSERT_EQ(replica_->Failover({}), absl::OkStatus());
  EXPECT_EQ(replica_->state().stage, Stage::kFailoverFailed);
  EXPECT_EQ(operation_, "commit");
  EXPECT_NE(View(), view_);  // refused: a part of the volume is not there
  EXPECT_FALSE(replica_->Failover({}).ok());
  EXPECT_EQ(replica_->state().stage, Stage::kFailoverFailed);
  PutBack();
  ASSERT_EQ(replica_->Failover({}), absl::OkStatus());
  EXPECT_TRUE(View() == view_);
  ASSERT_EQ(replica_->WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(replica_->state().stage, Stage::kDone);
  EXPECT_TRUE(f_.RawDisk(0) == view_);
}

TEST_F(MissingDiskTest, AFailoverWithoutItSurvivesARestart) {
  LoseDisk();
  ASSERT_EQ(replica_->Failover({}), absl::OkStatus());
  replica_ = nullptr;
  store_ = nullptr;
  PutBack();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kFailoverFailed);
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0) == view_);
}

TEST_F(MissingDiskTest, AFailoverWithoutItLetsTheGroupBeRemoved) {
  LoseDisk();
  ASSERT_EQ(replica_->Failover({}), absl::OkStatus());
  replica_ = nullptr;
  ASSERT_EQ(store_->Remove("vm1", std::nullopt), absl::OkStatus());
  EXPECT_TRUE(store_->List().empty());
}

TEST_F(MissingDiskTest, ADiskThatHasServedAnotherLifeMeanwhileIsNotTaken) {
  LoseDisk();
  PutBack();
  ASSERT_EQ(base::FileSystem::Posix().Remove(DiskPath(0) + ".understudy"), absl::OkStatus());
  EXPECT_EQ(Checkpoint().code(), absl::StatusCode::kDataLoss);
  EXPECT_NE(View(), view_);
}

// What the first sync has left on the disk is no state: it must not become one by way of a failover without a disk.
TEST_F(MissingDiskTest, BeforeTheFirstSyncHasEndedThereIsNothingToTakeOverWith) {
  for (auto& volume : f_.spec().volumes) volume.initial = Initial::kSync;
  LoseDiskBeforeSync();
  ASSERT_EQ(replica_->Failover({}), absl::OkStatus());
  PutBack();
  EXPECT_TRUE(HasReason(replica_->Failover({}), kReasonNoCheckpoint));
  EXPECT_EQ(replica_->state().stage, Stage::kFailoverFailed);
}

}  // namespace
}  // namespace understudy::storage::missing_disk_test
