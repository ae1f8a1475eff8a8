// A first sync takes little room, whatever it copies: it goes to the secondary disks in steps that nobody sees.
#include <atomic>
#include <chrono>
#include <future>
#include <string>

#include <absl/strings/match.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::first_sync_test {
namespace {

using testing::FileOperation;
using ::testing::IsEmpty;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kVolumeBytes = 32 * kMiB;

class FirstSyncTest : public ::testing::TestWithParam<bool> {
 protected:
  FirstSyncTest() : f_(1, 1, kVolumeBytes), expected_(f_.initial(0)) {
    f_.options().checkpoint_durable = GetParam();
    f_.options().first_sync_step_bytes = 4 * kMiB;
    f_.spec().volumes[0].initial = Initial::kSync;
  }
  void TearDown() override {
    f_.files().SetHook(nullptr);
    f_.CloseStore();
  }
  void Begin() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    ASSERT_TRUE(f_.replica().state().incomplete);
  }
  void Send(uint64_t from, uint64_t to) {
    for (uint64_t at = from; at < to; at += kMiB) {
      const std::string data = f_.Bytes(kMiB);
      ASSERT_EQ(f_.PrimaryWrite(0, at, data), absl::OkStatus());
      expected_.replace(at, data.size(), data);
    }
  }
  void ExpectNothingToSee() {
    const ReplicaState state = f_.replica().state();
    EXPECT_FALSE(state.valid);
    EXPECT_TRUE(state.incomplete);
    EXPECT_EQ(state.committed_epoch, Epoch());
    EXPECT_EQ(state.committed_sequence, 0u);
    EXPECT_THAT(f_.replica().History(), IsEmpty());
    EXPECT_THAT(f_.View(0), ::testing::HasSubstr("before the first sync has ended"));
    EXPECT_TRUE(HasReason(f_.replica().Failover({}), kReasonNoCheckpoint));
    EXPECT_TRUE(HasReason(f_.Checkpoint().status(), kReasonIncomplete));
  }
  void End() {
    ASSERT_EQ(f_.Append({{.kind = OperationKind::kComplete}}, ""), absl::OkStatus());
    const auto checkpoint = f_.MarkedCheckpoint();
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(f_.replica().state().committed_epoch, checkpoint->epoch);
    EXPECT_TRUE(f_.replica().state().valid);
    EXPECT_TRUE(f_.View(0) == expected_);
    ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
    EXPECT_TRUE(f_.RawDisk(0) == expected_);
  }

  StoreFixture f_;
  std::string expected_;
};

INSTANTIATE_TEST_SUITE_P(Durability, FirstSyncTest, ::testing::Bool());

TEST_P(FirstSyncTest, TheDisksTakeItWhileItRuns) {
  Begin();
  uint64_t most = 0;
  for (uint64_t at = 0; at < kVolumeBytes; at += 4 * kMiB) {
    Send(at, at + 4 * kMiB);
    most = std::max(most, f_.store().Space()->segment_bytes);
    ExpectNothingToSee();
  }
  EXPECT_LE(most, 5 * 4 * kMiB);  // three steps, and what of their segments is not full
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0).substr(0, 16 * kMiB) == expected_.substr(0, 16 * kMiB));
  End();
}

TEST_P(FirstSyncTest, AKillInTheMiddleOfItShowsNothingEither) {
  Begin();
  Send(0, 10 * kMiB);
  f_.replica().RequestDurablePoint();
  while (f_.replica().state().durable_sequence < 10) absl::SleepFor(absl::Milliseconds(1));
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  ExpectNothingToSee();
  ASSERT_EQ(f_.replica().state().received_sequence, 10u);
  std::string received(10 * kMiB, '\0');
  ASSERT_EQ(f_.replica().ReadReceived(VolumeId(0), 0, std::span(received.data(), received.size())),
            absl::OkStatus());
  EXPECT_TRUE(received == expected_.substr(0, 10 * kMiB));
  ASSERT_EQ(f_.replica().AttachStream(f_.replica().state().stream_id, false), absl::OkStatus());
  Send(10 * kMiB, 25 * kMiB);
  ExpectNothingToSee();
  End();
}

// Neither kept as history, nor chosen because the disk holds exactly it.
TEST_P(FirstSyncTest, NobodyGoesBackToAStep) {
  f_.options().history_epochs = 3;
  Begin();
  Send(0, 10 * kMiB);
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().history_epochs, 0u);
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kComplete}}, ""), absl::OkStatus());
  const auto checkpoint = f_.MarkedCheckpoint();
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  for (const bool restarted : {false, true}) {
    if (restarted) {
      ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
    }
    const auto history = f_.replica().History();
    ASSERT_EQ(history.size(), 1u);
    EXPECT_EQ(history[0].epoch, checkpoint->epoch);
    const Epoch step = Epoch(checkpoint->epoch.value() - 1);
    EXPECT_TRUE(absl::IsNotFound(f_.replica().Failover({.epoch = step})));
    EXPECT_TRUE(absl::IsNotFound(f_.replica().CreateClone({.name = "c", .epoch = step})));
  }
  EXPECT_TRUE(f_.View(0) == expected_);
}

// A step that only the log has commits no marker either: the agent would take one of its own for committed.
TEST_P(FirstSyncTest, AStepThatIsRedoneCommitsNoMarker) {
  f_.options().first_sync_step_bytes = 2 * kMiB;
  f_.options().index_batch_delay = absl::Hours(1);
  Begin();
  Send(0, 2 * kMiB);
  std::atomic<bool> failing = true;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    const bool log = path.find("/segments/") != std::string::npos;
    return failing && log && operation == FileOperation::kSync ? absl::InternalError("EIO")
                                                               : absl::OkStatus();
  });
  // Whether it is taken itself, behind the step that it makes, is a race.
  f_.PrimaryWrite(0, 2 * kMiB, f_.Bytes(kMiB)).IgnoreError();
  f_.CopyDataDir();
  failing = false;
  ASSERT_EQ(f_.OpenCopy(), absl::OkStatus());
  ASSERT_GE(f_.replica().state().received_sequence, 2u);
  ASSERT_GT(f_.replica().state().epoch, Epoch(1)) << "the step is there";
  ExpectNothingToSee();
  ASSERT_EQ(f_.replica().AttachStream(f_.replica().state().stream_id, false), absl::OkStatus());
  f_.set_next_sequence(f_.replica().state().received_sequence + 1);
  Send(2 * kMiB, 4 * kMiB);
  End();
}

// With --durability=none it is shown before it is durable. What is older than it is half a disk.
TEST_P(FirstSyncTest, AFirstCheckpointThatIsLostLeavesNothingToFailOverTo) {
  Begin();
  Send(0, 10 * kMiB);
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kComplete}}, ""), absl::OkStatus());
  f_.files().SetHook([](FileOperation operation, const std::string& path) {
    const bool log = path.find("/segments/") != std::string::npos;
    return log && operation == FileOperation::kSync ? absl::InternalError("EIO") : absl::OkStatus();
  });
  EXPECT_EQ(f_.MarkedCheckpoint().ok(), !GetParam());
  // Until the log says which of its segments broke it, and not a moment longer: the log knows it
  // before the replica does. A fresh segment may be refused before.
  while (!absl::StrContains(f_.Checkpoint().status().message(), "(file ")) {
  }
  f_.files().SetHook(nullptr);
  const absl::Status refused = f_.replica().Failover({});
  EXPECT_TRUE(GetParam() ? !refused.ok() : HasReason(refused, kReasonNoCheckpoint)) << refused;
  EXPECT_EQ(f_.replica().state().stage, Stage::kRunning);
}

// And it is not failed over to before it is durable: a power cut would leave half a disk, and the
// primary fenced.
TEST_P(FirstSyncTest, AFailoverMakesTheFirstCheckpointDurableFirst) {
  Begin();
  Send(0, 10 * kMiB);
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kComplete}}, ""), absl::OkStatus());
  std::promise<void> asked;
  const std::shared_future<void> was_asked = asked.get_future().share();
  const bool durable = GetParam();
  f_.files().SetHook([was_asked, durable](FileOperation operation, const std::string& path) {
    const bool log = path.find("/segments/") != std::string::npos;
    if (durable || !log || operation != FileOperation::kSync) return absl::OkStatus();
    was_asked.wait();
    return absl::InternalError("EIO");
  });
  ASSERT_TRUE(f_.MarkedCheckpoint().ok());
  auto failover = std::async(std::launch::async, [&] { return f_.replica().Failover({}); });
  failover.wait_for(std::chrono::milliseconds(100));  // it would not wait for the disk
  asked.set_value();
  const absl::Status status = failover.get();
  EXPECT_TRUE(durable ? status.ok() : HasReason(status, kReasonNoCheckpoint)) << status;
  EXPECT_EQ(f_.replica().state().stage == Stage::kRunning, !durable);
}

TEST_P(FirstSyncTest, ItEndsOnceAndForAll) {
  Begin();
  Send(0, 10 * kMiB);
  End();
  // A resync later is not one: the standby stays at its last checkpoint.
  const std::string before = expected_;
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  Send(0, 12 * kMiB);
  EXPECT_TRUE(f_.View(0) == before);
  EXPECT_TRUE(f_.RawDisk(0) == before);
  End();
}

TEST_P(FirstSyncTest, ALimitIsNoObstacle) {
  f_.options().overlay_bytes_max = 16 * kMiB;
  f_.options().first_sync_step_bytes = 1 << 30;  // never by itself
  Begin();
  Send(0, kVolumeBytes);
  ExpectNothingToSee();
  End();
}

// Nothing is lost of what the disk refuses; the sync goes on when it takes it again.
TEST_P(FirstSyncTest, ADiskThatRefusesIsTriedAgain) {
  Begin();
  std::atomic<bool> failing = true;
  const std::string disk = f_.spec().volumes[0].disk_path;
  f_.files().SetHook([&, disk](FileOperation operation, const std::string& path) {
    const bool fails = failing && path == disk && operation == FileOperation::kWrite;
    return fails ? absl::InternalError("EIO") : absl::OkStatus();
  });
  Send(0, 7 * kMiB);
  f_.replica().WaitForJobs(base::Deadline::Never()).IgnoreError();
  failing = false;
  Send(7 * kMiB, 20 * kMiB);
  End();
}

// PREPARE was answered: the epoch is sealed, whole and durable, and the orchestrator may have loaded the VM's state for it.
TEST_P(FirstSyncTest, AStepDoesNotTakeAPreparedFirstCheckpointAway) {
  Begin();
  Send(0, 3 * kMiB);
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kComplete}}, ""), absl::OkStatus());
  std::promise<absl::StatusOr<CheckpointResult>> promise;
  auto future = promise.get_future();
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kPrepare}}, "",
                      [&](absl::StatusOr<CheckpointResult> result) { promise.set_value(result); }),
            absl::OkStatus());
  const auto prepared = future.get();
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  const std::string at_marker = expected_;
  // The agent dies and comes back with a new stream, or a write is skipped.
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  Send(8 * kMiB, 20 * kMiB);
  const auto committed = f_.replica().CommitPrepared(prepared->epoch);
  EXPECT_TRUE(committed.ok()) << committed.status();
  EXPECT_TRUE(f_.replica().state().valid);
  EXPECT_TRUE(f_.View(0) == at_marker);
  EXPECT_EQ(f_.replica().Failover({}), absl::OkStatus()) << "the primary dies now";
}

}  // namespace
}  // namespace understudy::storage::first_sync_test
