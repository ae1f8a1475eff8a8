#include "client/volume.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <random>
#include <thread>
#include <unistd.h>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "client/agent_state.h"
#include "client/primary.h"
#include "tests/client/fake_transport.h"
#include "tests/testing/fault_file_system.h"

namespace understudy::client::volume_test {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr uint64_t kDiskBytes = 1 << 20;

base::Deadline Soon() { return base::Deadline::After(absl::Seconds(10)); }

class VolumeTest : public ::testing::Test {
 protected:
  VolumeTest() : transport_({kDiskBytes}) {
    char name[] = "/tmp/understudy-volume-XXXXXX";
    directory_ = mkdtemp(name);
    disk_ = directory_ + "/disk.raw";
    auto file = base::FileSystem::Posix().Open(disk_, {.create = true});
    EXPECT_TRUE((*file)->Truncate(kDiskBytes).ok());
  }
  ~VolumeTest() override {
    primary_.reset();
    std::filesystem::remove_all(directory_);
  }

  Primary& Make(bool tee, bool report = false, bool stop_when_fenced = true) {
    primary_.reset();
    PrimaryOptions options{
        .forwarder = {.group = "vm1",
                      .window_bytes = kWindowBytesMin,
                      .stall_timeout = stall_timeout_,
                      .heartbeat = absl::Milliseconds(20),
                      .lost_peer = absl::Seconds(20),
                      .backoff_min = absl::Milliseconds(5),
                      .backoff_max = absl::Milliseconds(20)},
        .volumes = {{.name = "disk0", .disk_path = tee ? disk_ : "", .size_bytes = kDiskBytes}},
        .report_forward_errors = report,
        .stop_when_fenced = stop_when_fenced};
    auto state = AgentState::Open(base::FileSystem::Posix(), directory_ + "/state");
    EXPECT_TRUE(state.ok()) << state.status();
    auto primary = Primary::Create(options, file_system_, *std::move(state), &transport_);
    EXPECT_TRUE(primary.ok()) << primary.status();
    primary_ = *std::move(primary);
    EXPECT_TRUE(primary_->Resume().ok());
    return *primary_;
  }
  Volume& Disk() { return *primary_->volumes()[0]; }
  static std::string Block(char c, size_t bytes = 4096) { return std::string(bytes, c); }
  std::string Local() { return *base::FileSystem::Posix().ReadWholeFile(disk_); }
  // So much that not one more write of 4 KiB has room, while the standby acknowledges nothing.
  void FillWindow() {
    transport_.Set([](auto& b) { b.acknowledge = false; });
    uint64_t room = kWindowBytesMin;
    for (const uint64_t length : {256 << 10, 4 << 10}) {
      for (; room >= length + kOperationBytes; room -= length + kOperationBytes) {
        ASSERT_TRUE(Disk().Write(kDiskBytes / 2, Block('f', length), false).ok());
      }
    }
  }
  void Fence() {
    transport_.Set([](auto& b) {
      b.refuse = WithReason(absl::FailedPreconditionError("term 4 has taken over"), kReasonFenced);
    });
    transport_.Disconnect();
    ASSERT_TRUE(Eventually([&] { return primary_->fenced(); }));
  }

  absl::Duration stall_timeout_ = absl::Milliseconds(20);
  testing::FaultFileSystem file_system_;
  FakeTransport transport_;
  std::string directory_;
  std::string disk_;
  std::unique_ptr<Primary> primary_;
};

TEST_F(VolumeTest, ForwardModeTakesWritesOnlyWhileRunningAndIsNeverRead) {
  Primary& primary = Make(/*tee=*/false);
  std::string out(4096, 'z');
  EXPECT_FALSE(Disk().Write(0, Block('a'), false).ok());
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  EXPECT_TRUE(Disk().Write(0, Block('a'), true).ok());
  EXPECT_FALSE(Disk().Read(0, out).ok());
  ASSERT_TRUE(primary.Stop(false, Soon()).ok());
  EXPECT_EQ(transport_.disk(0).substr(0, 4096), Block('a'));
  EXPECT_FALSE(Disk().Write(0, Block('b'), false).ok());
}

TEST_F(VolumeTest, TeeModeWritesLocallyInEveryStageAndForwardsWhileRunning) {
  Primary& primary = Make(/*tee=*/true);
  ASSERT_TRUE(Disk().Write(0, Block('a'), false).ok());
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  ASSERT_TRUE(Disk().Write(4096, Block('b'), false).ok());
  ASSERT_TRUE(Disk().Write(8192, Block('c', 8192), false).ok());
  ASSERT_TRUE(Disk().WriteZeroes(8192, 4096, ZeroedSpace::kKept, false).ok());
  ASSERT_TRUE(Disk().Flush().ok());
  std::string out(4096, 'z');
  ASSERT_TRUE(Disk().Read(12288, out).ok());
  EXPECT_EQ(out, Block('c'));
  ASSERT_TRUE(Eventually([&] { return !primary.forwarder().state().incomplete; }));
  const auto checkpoint = primary.Checkpoint(Soon());
  ASSERT_TRUE(checkpoint.ok());
  EXPECT_EQ(checkpoint->checkpoint.epoch, Epoch(2));  // the first was the resync's
  const std::string standby = transport_.disk(0);
  EXPECT_EQ(standby, Local());  // what was written before Start, too: a resync has sent it
  EXPECT_EQ(Local()[0], 'a');
}

// The service's exports refuse them, too; a VM is to see the same at both ends.
TEST_F(VolumeTest, NoRequestEndsWithinASector) {
  Make(/*tee=*/true);
  char buffer[512];
  for (const auto& status :
       {Disk().Read(0, std::span(buffer, 100)), Disk().Read(100, std::span(buffer, 512)),
        Disk().Write(0, std::span(buffer, 100), false),
        Disk().WriteZeroes(100, 512, ZeroedSpace::kKept, false), Disk().Discard(0, 100, false)}) {
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  }
  EXPECT_TRUE(Disk().Read(512, std::span(buffer, 512)).ok());
}

TEST_F(VolumeTest, OverlappingConcurrentWritesHaveTheSameOrderOnDiskAndInTheStream) {
  stall_timeout_ = absl::Seconds(20);
  Primary& primary = Make(/*tee=*/true);
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; ++w) {
    writers.emplace_back([&, w] {
      std::mt19937 random(static_cast<uint32_t>(w));
      for (int i = 0; i < 300; ++i) {
        const uint64_t offset = 512 * (random() % 64);
        const uint64_t length = 512 * (1 + random() % 64);
        if (random() % 8 == 0) {
          EXPECT_TRUE(Disk().Discard(offset, length, false).ok());
        } else {
          EXPECT_TRUE(
              Disk()
                  .Write(offset, Block(static_cast<char>(1 + random() % 255), length), false)
                  .ok());
        }
      }
    });
  }
  for (std::thread& writer : writers) writer.join();
  ASSERT_TRUE(primary.Stop(false, Soon()).ok());
  EXPECT_TRUE(transport_.disk(0) == Local());
}

TEST_F(VolumeTest, ForwardErrorsAreHiddenUnlessAskedFor) {
  for (const bool report : {false, true}) {
    Primary& primary = Make(/*tee=*/false, report);
    if (primary.stage() == Stage::kNone) {
      ASSERT_TRUE(primary.Start(false, Soon()).ok());
    }
    FillWindow();
    EXPECT_EQ(Disk().Write(0, Block('a'), false).ok(), !report);
    EXPECT_FALSE(primary.errors().empty());
    EXPECT_EQ(primary.Stop(false, Soon()).status().code(), absl::StatusCode::kAborted);
  }
}

TEST_F(VolumeTest, SkippedWritesAreNamedOverARestartToo) {
  ASSERT_TRUE(Make(/*tee=*/true).Start(false, Soon()).ok());
  FillWindow();
  ASSERT_TRUE(Disk().Write(4096, Block('a'), false).ok());
  ASSERT_TRUE(Disk().Write(12288, Block('b'), false).ok());
  ASSERT_TRUE(Disk().Flush().ok());
  for (const bool restarted : {false, true}) {
    if (restarted) {
      primary_->forwarder().errors().Store().IgnoreError();
      Make(/*tee=*/true);
      ASSERT_TRUE(Eventually([&] { return primary_->forwarder().state().incomplete; }));
    }
    const std::vector<base::LatchedError> errors = primary_->errors();
    const auto missed = std::find_if(errors.begin(), errors.end(),
                                     [](const auto& error) { return error.volume == "disk0"; });
    ASSERT_NE(missed, errors.end());
    EXPECT_EQ(missed->operation, "forward");
    EXPECT_EQ(missed->reason, kReasonIncomplete);
    EXPECT_EQ(missed->range, (ByteRange{12288, 16384}));
    EXPECT_EQ(missed->count, 2u) << "a flush misses nothing";
    EXPECT_EQ(missed->bytes, 8192u);
    const absl::Status refused = primary_->Checkpoint(Soon()).status();
    EXPECT_EQ(refused.code(), absl::StatusCode::kAborted);
    EXPECT_THAT(std::string(refused.message()),
                HasSubstr("volume disk0: 2 times, 8192 bytes, the newest [12288, 16384)"));
    EXPECT_THAT(std::string(primary_->Stop(false, Soon()).status().message()),
                HasSubstr("volume disk0: 2 times"));
  }
  ASSERT_TRUE(primary_->Stop(true, Soon()).ok());
  EXPECT_THAT(primary_->errors(), IsEmpty());
  EXPECT_THAT(Make(/*tee=*/true).errors(), IsEmpty());
}

TEST_F(VolumeTest, OnceFencedEverythingFailsAlsoAfterARestart) {
  ASSERT_TRUE(Make(/*tee=*/true).Start(false, Soon()).ok());
  Fence();
  std::string out(4096, 'z');
  EXPECT_FALSE(Disk().Write(0, Block('a'), false).ok());
  EXPECT_FALSE(Disk().Read(0, out).ok());
  EXPECT_FALSE(Disk().Flush().ok());
  EXPECT_EQ(Local()[0], '\0');
  EXPECT_GE(Disk().figures().fenced_requests.load(), 3u);
  Primary& again = Make(/*tee=*/true);
  EXPECT_EQ(again.stage(), Stage::kRunning);
  EXPECT_TRUE(again.fenced());
  EXPECT_FALSE(Disk().Read(0, out).ok());
  ASSERT_THAT(again.errors(), SizeIs(1));
  EXPECT_EQ(again.errors()[0].count, 1u) << "a restart is no second time";
  transport_.Set([](auto& b) { b.refuse = absl::OkStatus(); });
  EXPECT_TRUE(again.Start(/*takeover=*/true, Soon()).ok());
  EXPECT_TRUE(transport_.seen().handshakes.back().takeover);
  EXPECT_TRUE(Disk().Write(0, Block('a'), false).ok());
}

TEST_F(VolumeTest, OnFencedContinueGoesOnWithTheLocalDisk) {
  ASSERT_TRUE(Make(/*tee=*/true, false, /*stop_when_fenced=*/false).Start(false, Soon()).ok());
  Fence();
  EXPECT_TRUE(Disk().Write(0, Block('a'), false).ok());
  EXPECT_EQ(Local()[0], 'a');
}

TEST_F(VolumeTest, AStartThatIsFencedLeavesTheStageAsItWas) {
  transport_.Set([](auto& b) {
    b.refuse = WithReason(absl::FailedPreconditionError("bound to host-b"), kReasonFenced);
  });
  Primary& primary = Make(/*tee=*/true);
  EXPECT_TRUE(HasReason(primary.Start(false, Soon()).status(), kReasonFenced));
  EXPECT_EQ(primary.stage(), Stage::kNone);
  EXPECT_TRUE(Disk().Write(0, Block('a'), false).ok());
}

TEST_F(VolumeTest, ACleanRestartResumesTheStreamAndACrashDoesNot) {
  Primary* primary = &Make(/*tee=*/true);
  ASSERT_TRUE(primary->Start(false, Soon()).ok());
  ASSERT_TRUE(Disk().Write(0, Block('a'), false).ok());
  primary->Shutdown(absl::Seconds(10));
  const uint64_t stream = transport_.seen().stream_id;
  primary = &Make(/*tee=*/true);
  EXPECT_EQ(primary->stage(), Stage::kRunning);
  ASSERT_TRUE(primary->forwarder().WaitForAnswer(Soon()).connected);
  EXPECT_EQ(transport_.seen().stream_id, stream);
  EXPECT_EQ(transport_.seen().handshakes.back().first_available_sequence, 2u);
  EXPECT_FALSE(transport_.seen().handshakes.back().grant.none());
  ASSERT_TRUE(Disk().Write(0, Block('b'), false).ok());
  primary = &Make(/*tee=*/true);  // without Shutdown()
  ASSERT_TRUE(primary->forwarder().WaitForAnswer(Soon()).connected);
  EXPECT_NE(transport_.seen().stream_id, stream);
}

// Both ends are stopped, removed and started again while the agent's process stays: the old stream's sequences meet a standby
// that knows nothing of them.
TEST_F(VolumeTest, AfterStopAndRemoveBothEndsStartAfresh) {
  Primary& primary = Make(/*tee=*/true);
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  ASSERT_TRUE(Disk().Write(0, Block('a'), false).ok());
  ASSERT_TRUE(primary.Checkpoint(Soon()).ok());
  ASSERT_TRUE(primary.Stop(false, Soon()).ok());
  ASSERT_TRUE(primary.Remove(Soon()).ok());
  transport_.StartAfresh();
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  ASSERT_TRUE(primary.forwarder().WaitForAnswer(Soon()).connected);
  EXPECT_EQ(primary.forwarder().state().sync_state, SyncState::kAssumed);
  EXPECT_THAT(primary.errors(), IsEmpty());
  ASSERT_TRUE(Disk().Write(4096, Block('b'), false).ok());
  const auto checkpoint = primary.Checkpoint(Soon());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->checkpoint.epoch, Epoch(1));
  EXPECT_TRUE(transport_.disk(0) == Local());
}

// A write that is answered after the drain would be on the local disk only, while the stored stream says that nothing is missing.
TEST_F(VolumeTest, AShutdownUnderLoadLeavesAStreamThatGoesOnAndEqualDisks) {
  stall_timeout_ = absl::Seconds(20);
  ASSERT_TRUE(Make(/*tee=*/true).Start(false, Soon()).ok());
  for (int round = 0; round < 5; ++round) {
    Primary& primary = Make(/*tee=*/true);
    ASSERT_TRUE(primary.forwarder().WaitForAnswer(Soon()).connected);
    const uint64_t stream = transport_.seen().stream_id;
    std::atomic<int> written{0};
    std::vector<std::thread> guests;
    std::vector<absl::Status> last(4);
    for (size_t g = 0; g < last.size(); ++g) {
      guests.emplace_back([&, g] {
        std::mt19937 random(static_cast<uint32_t>(g) + 100 * static_cast<uint32_t>(round));
        while (last[g].ok()) {
          const std::string data(4096, static_cast<char>(1 + random() % 255));
          last[g] = Disk().Write(4096 * (random() % 256), data, false);
          ++written;
        }
      });
    }
    ASSERT_TRUE(Eventually([&] { return written > 200; }));
    primary.Shutdown(absl::Seconds(10));
    for (std::thread& guest : guests) guest.join();
    for (const absl::Status& status : last) {
      EXPECT_EQ(status.code(), absl::StatusCode::kCancelled) << status;
    }
    std::string out(4096, 'z');
    EXPECT_EQ(Disk().Read(0, out).code(), absl::StatusCode::kCancelled);
    EXPECT_EQ(Disk().Flush().code(), absl::StatusCode::kCancelled);
    EXPECT_TRUE(transport_.disk(0) == Local()) << "round " << round;
    Primary& again = Make(/*tee=*/true);
    ASSERT_TRUE(again.forwarder().WaitForAnswer(Soon()).connected);
    EXPECT_EQ(transport_.seen().stream_id, stream) << "round " << round;
    EXPECT_FALSE(again.forwarder().state().incomplete);
    again.Shutdown(absl::Seconds(10));
  }
}

TEST_F(VolumeTest, AWriteStuckOnTheLocalDiskAtShutdownLeavesNoResumePoint) {
  Primary& primary = Make(/*tee=*/true);
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  ASSERT_TRUE(Disk().Write(0, Block('a'), false).ok());
  const uint64_t stream = transport_.seen().stream_id;
  std::atomic<bool> stuck{false};
  std::atomic<bool> released{false};
  file_system_.SetHook([&](testing::FileOperation operation, const std::string& path) {
    if (operation == testing::FileOperation::kWrite && path == disk_) {
      stuck = true;
      while (!released) absl::SleepFor(absl::Milliseconds(1));
    }
    return absl::OkStatus();
  });
  std::thread guest([&] { EXPECT_TRUE(Disk().Write(0, Block('b'), false).ok()); });
  ASSERT_TRUE(Eventually([&] { return stuck.load(); }));
  primary.Shutdown(absl::Milliseconds(100));
  released = true;
  guest.join();
  EXPECT_EQ(Local()[0], 'b');  // answered, and not forwarded
  EXPECT_EQ(transport_.disk(0)[0], 'a');
  file_system_.SetHook({});
  Primary& again = Make(/*tee=*/true);
  ASSERT_TRUE(again.forwarder().WaitForAnswer(Soon()).connected);
  EXPECT_NE(transport_.seen().stream_id, stream);
}

TEST_F(VolumeTest, StagesFollowTheTable) {
  Primary& primary = Make(/*tee=*/true);
  EXPECT_TRUE(primary.Checkpoint(Soon())->ignored);
  EXPECT_EQ(primary.Stop(false, Soon()).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(primary.Remove(Soon()).ok());
  ASSERT_TRUE(primary.Start(false, Soon()).ok());
  EXPECT_EQ(primary.Start(false, Soon()).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(primary.Remove(Soon()).status().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_TRUE(primary.Stop(true, Soon()).ok());
  EXPECT_TRUE(primary.Start(false, Soon())->ignored);
  EXPECT_TRUE(primary.Stop(true, Soon())->ignored);
  EXPECT_TRUE(primary.Checkpoint(Soon())->ignored);
  ASSERT_TRUE(primary.Remove(Soon()).ok());
  EXPECT_EQ(primary.stage(), Stage::kNone);
}

TEST_F(VolumeTest, TheMapShowsDataAndHoles) {
  Make(/*tee=*/true);
  ASSERT_TRUE(Disk().Write(65536, Block('a', 65536), false).ok());
  const auto runs = Disk().Map({0, kDiskBytes}, 512);
  ASSERT_TRUE(runs.ok());
  ASSERT_THAT(*runs, SizeIs(3));
  EXPECT_TRUE((*runs)[0].hole);
  EXPECT_EQ((*runs)[1].range, (ByteRange{65536, 131072}));
  EXPECT_FALSE((*runs)[1].hole);
  const auto first = Disk().Map({4096, kDiskBytes}, 1);
  ASSERT_TRUE(first.ok());
  EXPECT_THAT(*first, ElementsAre(BlockRun{.range = {4096, 65536}, .zero = true, .hole = true}));
}

}  // namespace
}  // namespace understudy::client::volume_test
