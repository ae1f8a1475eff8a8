// One behaviour of a replica each, on real files; the random sequences are in replica_model_test.
#include <atomic>
#include <cerrno>
#include <filesystem>
#include <string>
#include <sys/stat.h>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::replica_test {
namespace {

using testing::FileOperation;
using ::testing::HasSubstr;

constexpr uint64_t kVolumeBytes = 1 << 20;

std::string Text(const absl::Status& status) { return std::string(status.message()); }

class Recorder : public ReplicaListener {
 public:
  void OnBackgroundError(const BackgroundError& error) override {
    base::MutexLock lock(mutex_);
    errors_.push_back(error);
  }
  void OnChange() override {}
  std::vector<BackgroundError> errors() {
    base::MutexLock lock(mutex_);
    return errors_;
  }

 private:
  base::Mutex mutex_;
  std::vector<BackgroundError> errors_ ABSL_GUARDED_BY(mutex_);
};

class ReplicaTest : public ::testing::Test {
 protected:
  ReplicaTest() : f_(1, 2, kVolumeBytes) {}
  void Begin() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    f_.replica().SetListener(&recorder_);
  }
  void TearDown() override {
    f_.files().SetHook(nullptr);
    f_.CloseStore();
  }
  std::string DiskPath(size_t volume) { return f_.spec().volumes[volume].disk_path; }
  // Fails `operation` on the secondary disk of volume 0 with `error_number` while `on`.
  void FailDisk(FileOperation operation, int error_number, std::atomic<bool>& on) {
    const std::string path = DiskPath(0);
    f_.files().SetHook([=, &on](FileOperation asked, const std::string& asked_path) {
      if (on.load() && asked == operation && asked_path == path)
        return base::ErrnoStatus(error_number, asked_path);
      return absl::OkStatus();
    });
  }

  Recorder recorder_;
  StoreFixture f_;
};

TEST_F(ReplicaTest, ThePrimarysWritesStayHiddenUntilTheCheckpoint) {
  Begin();
  const std::string data = f_.Bytes(8192);
  ASSERT_EQ(f_.PrimaryWrite(0, 4096, data), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == f_.initial(0));
  EXPECT_TRUE(f_.RawDisk(0) == f_.initial(0));
  const auto checkpoint = f_.MarkedCheckpoint();
  ASSERT_EQ(checkpoint.status(), absl::OkStatus());
  EXPECT_EQ(checkpoint->epoch, Epoch(1));
  EXPECT_EQ(checkpoint->sequence, 2u);
  EXPECT_EQ(checkpoint->bytes, 8192u);
  EXPECT_EQ(f_.View(0).substr(4096, 8192), data);
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(f_.RawDisk(0).substr(4096, 8192), data);
  EXPECT_EQ(f_.replica().state().backlog_epochs, 0u);
}

TEST_F(ReplicaTest, WhatTheNewestCheckpointChangedAndTookIsKnownAfterAKill) {
  Begin();
  ASSERT_EQ(f_.PrimaryWrite(0, 4096, f_.Bytes(8192)), absl::OkStatus());
  const auto checkpoint = f_.MarkedCheckpoint();
  ASSERT_EQ(checkpoint.status(), absl::OkStatus());
  const ReplicaState before = f_.replica().state();
  EXPECT_EQ(before.checkpoint_bytes, 8192u);
  EXPECT_GT(before.checkpoint_duration, absl::ZeroDuration());
  EXPECT_LE(before.checkpoint_duration, checkpoint->duration);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().checkpoint_bytes, before.checkpoint_bytes);
  EXPECT_EQ(f_.replica().state().checkpoint_duration, before.checkpoint_duration);
}

// Redone from the log, which does not say how long it took, or already in the index.
TEST_F(ReplicaTest, ACheckpointThatIsNotDurableYetKeepsWhatItChanged) {
  f_.options().checkpoint_durable = false;
  Begin();
  ASSERT_EQ(f_.PrimaryWrite(0, 4096, f_.Bytes(8192)), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  const absl::Duration took = f_.replica().state().checkpoint_duration;
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().checkpoint_bytes, 8192u);
  EXPECT_THAT(f_.replica().state().checkpoint_duration,
              ::testing::AnyOf(took, absl::ZeroDuration()));
}

TEST_F(ReplicaTest, ACheckpointDropsWhatTheVmWrote) {
  Begin();
  ASSERT_EQ(f_.replica().Write(VolumeId(1), 512, f_.Bytes(512), false), absl::OkStatus());
  EXPECT_FALSE(f_.View(1) == f_.initial(1));
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_TRUE(f_.View(1) == f_.initial(1));
}

TEST_F(ReplicaTest, NoIoBeforeStart) {
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  char sector[512];
  const absl::Status read = f_.replica().Read(VolumeId(0), 0, sector);
  EXPECT_EQ(read.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Text(read), HasSubstr("stage NONE"));
  EXPECT_EQ(base::ErrnoOf(read), EIO);
}

// ---- the stream ----------------------------------------------------------------------------------------------------------

TEST_F(ReplicaTest, AReplayIsSkippedAndItsTailIsTaken) {
  Begin();
  const std::string first = f_.Bytes(512);
  const std::string second = f_.Bytes(1024);
  ASSERT_EQ(f_.PrimaryWrite(0, 0, first), absl::OkStatus());
  // Sequence 1 again, now with other bytes that must not count, and sequence 2 behind it.
  f_.set_next_sequence(1);
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kData, .offset = 0, .length = 512},
                       {.volume = 1, .kind = OperationKind::kData, .offset = 1024, .length = 1024}},
                      std::string(512, 'x') + second),
            absl::OkStatus());
  EXPECT_EQ(f_.replica().state().received_sequence, 2u);
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.View(0).substr(0, 512), first);
  EXPECT_EQ(f_.View(1).substr(1024, 1024), second);
}

TEST_F(ReplicaTest, AReplayedMarkerIsAnsweredWithTheEpochItMade) {
  Begin();
  ASSERT_EQ(f_.PrimaryWrite(0, 0, f_.Bytes(512)), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint()->epoch, Epoch(1));
  f_.set_next_sequence(2);
  EXPECT_EQ(f_.MarkedCheckpoint()->epoch, Epoch(1));
  EXPECT_EQ(f_.replica().state().epoch, Epoch(2));
}

TEST_F(ReplicaTest, ACheckpointOfTheServiceAnswersAMarkerThatItOvertook) {
  Begin();
  ASSERT_EQ(f_.PrimaryWrite(0, 0, f_.Bytes(512)), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint()->epoch, Epoch(1));
  const auto direct = f_.Checkpoint();
  ASSERT_EQ(direct.status(), absl::OkStatus());
  EXPECT_EQ(direct->sequence, 2u);
  EXPECT_EQ(f_.replica().state().committed_sequence, 2u);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().committed_sequence, 2u);
  f_.set_next_sequence(2);
  EXPECT_EQ(f_.MarkedCheckpoint()->epoch, Epoch(2));
}

TEST_F(ReplicaTest, TheVmsWritesGoOnWhenThePrimarysLogHasFailed) {
  Begin();
  ASSERT_EQ(f_.PrimaryWrite(0, 0, f_.Bytes(4096)), absl::OkStatus());
  std::atomic<bool> on = true;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    if (on && operation == FileOperation::kSync && path.find(".seg") != std::string::npos) {
      return base::ErrnoStatus(EIO, path);
    }
    return absl::OkStatus();
  });
  EXPECT_FALSE(f_.Checkpoint().ok());
  on = false;
  const std::string data = f_.Bytes(4096);
  ASSERT_EQ(f_.replica().Write(VolumeId(1), 0, data, true), absl::OkStatus());
  EXPECT_EQ(f_.View(1).substr(0, 4096), data);
}

TEST_F(ReplicaTest, BadOperationsAreRefusedAndChangeNothing) {
  Begin();
  const auto refuse = [&](Operation operation, const std::string& payload) {
    const absl::Status status = f_.Append({operation}, payload);
    EXPECT_EQ(f_.replica().state().received_sequence, 0u);
    return status;
  };
  const std::string sector(512, 's');
  EXPECT_EQ(refuse({.volume = 2, .length = 512}, sector).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refuse({.offset = kVolumeBytes, .length = 512}, sector).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(refuse({.offset = ~uint64_t{511}, .length = 1024}, sector + sector).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(refuse({.length = 0}, "").code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refuse({.length = 100}, std::string(100, 'x')).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refuse({.offset = 1, .length = 512}, sector).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refuse({.length = 1024}, sector).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(refuse({.kind = static_cast<OperationKind>(99), .length = 512}, "").code(),
            absl::StatusCode::kInvalidArgument);
  f_.set_next_sequence(5);
  const absl::Status gap = f_.PrimaryWrite(0, 0, sector);
  EXPECT_EQ(gap.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Text(gap), HasSubstr("sequence gap"));
  f_.set_next_sequence(1);
  EXPECT_EQ(f_.PrimaryWrite(0, 0, sector), absl::OkStatus());
}

TEST_F(ReplicaTest, AnIncompleteGroupCommitsNothingUntilComplete) {
  Begin();
  const std::string data = f_.Bytes(512);
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  ASSERT_EQ(f_.PrimaryWrite(0, 0, data), absl::OkStatus());
  EXPECT_TRUE(HasReason(f_.MarkedCheckpoint().status(), kReasonIncomplete));
  EXPECT_EQ(f_.Checkpoint().status().code(), absl::StatusCode::kAborted);
  EXPECT_EQ(f_.replica().Stop().code(), absl::StatusCode::kAborted);
  EXPECT_TRUE(f_.View(0) == f_.initial(0));
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());  // the flag is as durable as the frames
  EXPECT_TRUE(f_.replica().state().incomplete);
  EXPECT_TRUE(HasReason(f_.Checkpoint().status(), kReasonIncomplete));
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kComplete}}, ""), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.View(0).substr(0, 512), data);
}

TEST_F(ReplicaTest, AnotherStreamMeansIncompleteAndTheOldOneIsFenced) {
  Begin();
  const ReplicaState before = f_.replica().state();
  ASSERT_EQ(f_.replica().AttachStream(before.stream_id, false), absl::OkStatus());
  EXPECT_FALSE(f_.replica().state().incomplete);
  ASSERT_EQ(f_.replica().AttachStream(before.stream_id + 1, false), absl::OkStatus());
  EXPECT_TRUE(f_.replica().state().incomplete);
  const Operation operation = {.kind = OperationKind::kZero, .length = 512};
  const absl::Status stale = f_.replica().Append({.incarnation = before.incarnation,
                                                  .term = before.term,
                                                  .stream_id = before.stream_id,
                                                  .first_sequence = 1,
                                                  .operations = {&operation, 1}},
                                                 nullptr);
  EXPECT_TRUE(HasReason(stale, kReasonFenced)) << stale;
}

TEST_F(ReplicaTest, AWriterOfAnotherTermOrIncarnationIsFenced) {
  Begin();
  const ReplicaState state = f_.replica().state();
  const Operation operation = {.kind = OperationKind::kZero, .length = 512};
  IncomingFrame frame = {.incarnation = state.incarnation,
                         .term = state.term,
                         .stream_id = state.stream_id,
                         .first_sequence = 1,
                         .operations = {&operation, 1}};
  frame.term = Term(state.term.value() + 1);
  EXPECT_TRUE(HasReason(f_.replica().Append(frame, nullptr), kReasonFenced));
  frame.term = Term(state.term.value() - 1);
  EXPECT_TRUE(HasReason(f_.replica().Append(frame, nullptr), kReasonFenced));
  frame.term = state.term;
  frame.incarnation.low ^= 2;
  const absl::Status fenced = f_.replica().Append(frame, nullptr);
  EXPECT_TRUE(HasReason(fenced, kReasonFenced));
  EXPECT_EQ(ReasonOf(fenced)->metadata.at("term"), absl::StrCat(state.term.value()));
}

TEST_F(ReplicaTest, ThePrimaryshipBelongsToOneAgentUntilATakeover) {
  Begin();
  const Term term = f_.replica().state().term;
  EXPECT_EQ(f_.replica().BindAgent("agent", false), absl::OkStatus());
  EXPECT_TRUE(HasReason(f_.replica().BindAgent("other", false), kReasonFenced));
  ASSERT_EQ(f_.replica().BindAgent("other", true), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().term, term.Next());
  EXPECT_TRUE(HasReason(f_.replica().BindAgent("agent", false), kReasonFenced));
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().agent_id, "other");
  EXPECT_EQ(f_.replica().state().term, term.Next());
}

// ---- damage ------------------------------------------------------------------------------------------------------------

TEST_F(ReplicaTest, ADamagedBlockIsNamedAndNeverServedOrApplied) {
  f_.options().apply_bytes_per_second = 1;  // keep the epoch in the log
  Begin();
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 8192, f_.Bytes(8192), true), absl::OkStatus());
  // Damage the second block in the active log, wherever it lies.
  const std::string block = f_.View(0).substr(12288, 4096);
  int damaged = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(f_.options().data_dir + "/segments")) {
    std::string contents = *base::FileSystem::Posix().ReadWholeFile(entry.path());
    const size_t at = contents.find(block);
    if (at == std::string::npos) continue;
    auto file = base::FileSystem::Posix().Open(entry.path(), {});
    ASSERT_TRUE((*file)->Write(at + 7, "!").ok());
    ++damaged;
  }
  ASSERT_EQ(damaged, 1);
  std::string out(4096, '?');
  EXPECT_EQ(f_.replica().Read(VolumeId(0), 8192, std::span(out.data(), out.size())),
            absl::OkStatus());
  const absl::Status read =
      f_.replica().Read(VolumeId(0), 12288, std::span(out.data(), out.size()));
  EXPECT_EQ(read.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Text(read), HasSubstr("volume vm1/v0 range [12288, 16384): epoch 1 block at 12288"));
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(f_.replica().state().stage, Stage::kFailoverFailed);
  EXPECT_EQ(f_.RawDisk(0).substr(12288, 4096), f_.initial(0).substr(12288, 4096));
  ASSERT_FALSE(recorder_.errors().empty());
  EXPECT_EQ(recorder_.errors().back().operation, "commit");
  EXPECT_EQ(recorder_.errors().back().volume, VolumeId(0));
}

// ---- disks that fail -----------------------------------------------------------------------------------------------------

TEST_F(ReplicaTest, AFailedApplyIsReportedAndTheNextCheckpointTriesAgain) {
  Begin();
  std::atomic<bool> on = true;
  FailDisk(FileOperation::kWrite, EIO, on);
  const std::string data = f_.Bytes(4096);
  ASSERT_EQ(f_.PrimaryWrite(0, 0, data), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  EXPECT_EQ(base::ErrnoOf(f_.replica().WaitForJobs(base::Deadline::Never())), 5);
  ASSERT_FALSE(recorder_.errors().empty());
  EXPECT_EQ(recorder_.errors()[0].operation, "apply");
  EXPECT_EQ(recorder_.errors()[0].range, (ByteRange{0, 4096}));
  EXPECT_EQ(f_.View(0).substr(0, 4096), data);  // the view does not need the disk
  EXPECT_EQ(base::ErrnoOf(f_.replica().state().job_failure), 5);
  on = false;
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(f_.RawDisk(0).substr(0, 4096), data);
  EXPECT_EQ(f_.replica().state().job_failure, absl::OkStatus());
}

TEST_F(ReplicaTest, AFailedCommitJobIsRetriedAndTheVmWritesOn) {
  Begin();
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 0, f_.Bytes(16384), false), absl::OkStatus());
  std::string view = f_.View(0);
  std::atomic<bool> on = true;
  FailDisk(FileOperation::kWrite, ENOSPC, on);
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(f_.replica().state().stage, Stage::kFailoverFailed);
  // What an overlay holds goes to active; what the disk refuses goes there too.
  for (const uint64_t offset : {uint64_t{4096}, uint64_t{512 << 10}}) {
    const std::string data = f_.Bytes(8192);
    ASSERT_EQ(f_.replica().Write(VolumeId(0), offset, data, false), absl::OkStatus());
    view.replace(offset, data.size(), data);
  }
  EXPECT_TRUE(f_.View(0) == view);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kFailoverFailed);
  EXPECT_TRUE(f_.View(0) == view);
  on = false;
  // What a failover may choose was chosen with the first one: repeated as it was, it goes on.
  ASSERT_EQ(f_.replica().Failover({.received = true, .after_handover = true}), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  EXPECT_TRUE(f_.RawDisk(0) == view);
}

TEST_F(ReplicaTest, AFullDataDirectoryRefusesTheFrameAndLosesNothing) {
  Begin();
  const std::string first = f_.Bytes(4096);
  ASSERT_EQ(f_.PrimaryWrite(0, 0, first), absl::OkStatus());
  f_.files().SetHook([](FileOperation operation, const std::string& path) {
    if (operation == FileOperation::kWrite && path.find(".seg") != std::string::npos)
      return base::ErrnoStatus(ENOSPC, path);
    return absl::OkStatus();
  });
  const absl::Status full = f_.PrimaryWrite(0, 4096, f_.Bytes(4096));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(f_.replica().state().received_sequence, 1u);
  f_.files().SetHook(nullptr);
  const std::string second = f_.Bytes(4096);
  ASSERT_EQ(f_.PrimaryWrite(0, 4096, second), absl::OkStatus());
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.View(0).substr(0, 8192), first + second);
}

TEST_F(ReplicaTest, NothingIsAcknowledgedAfterAFailedSync) {
  Begin();
  ASSERT_EQ(f_.PrimaryWrite(0, 0, f_.Bytes(4096)), absl::OkStatus());
  f_.files().SetHook([](FileOperation operation, const std::string& path) {
    if (operation == FileOperation::kSync && path.find(".seg") != std::string::npos)
      return base::ErrnoStatus(EIO, path);
    return absl::OkStatus();
  });
  EXPECT_EQ(base::ErrnoOf(f_.MarkedCheckpoint().status()), EIO);
  f_.files().SetHook(nullptr);
  EXPECT_FALSE(f_.PrimaryWrite(0, 0, f_.Bytes(512)).ok());
  EXPECT_FALSE(f_.Checkpoint().ok());
  EXPECT_TRUE(f_.View(0) == f_.initial(0));
  // The standby can still take over at its last checkpoint.
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0) == f_.initial(0));
}

// ---- failover --------------------------------------------------------------------------------------------------------------

TEST_F(ReplicaTest, AFailoverFencesTheStreamAndDropsHidden) {
  Begin();
  const Term term = f_.replica().state().term;
  ASSERT_EQ(f_.PrimaryWrite(0, 0, f_.Bytes(4096)), absl::OkStatus());
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().term, term.Next());
  EXPECT_TRUE(HasReason(f_.PrimaryWrite(0, 0, f_.Bytes(512)), kReasonFenced));
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0) == f_.initial(0));
  EXPECT_EQ(f_.replica().Start().code(), absl::StatusCode::kFailedPrecondition);
}

TEST_F(ReplicaTest, AFailoverWithReceivedCommitsThePrefixFirst) {
  Begin();
  const std::string data = f_.Bytes(4096);
  ASSERT_EQ(f_.PrimaryWrite(0, 0, data), absl::OkStatus());
  ASSERT_EQ(f_.replica().Failover({.received = true}), absl::OkStatus());
  EXPECT_EQ(f_.View(0).substr(0, 4096), data);
}

TEST_F(ReplicaTest, AFailoverWithReceivedIsRefusedOnceTheVmHasWritten) {
  Begin();
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 0, f_.Bytes(512), false), absl::OkStatus());
  EXPECT_EQ(f_.replica().Failover({.received = true}).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(f_.replica().state().stage, Stage::kRunning);
}

TEST_F(ReplicaTest, AFreshDiskHasNoCheckpointUntilTheFirstSyncEnds) {
  f_.spec().volumes[0].disk_path = f_.directory() + "/fresh.img";
  f_.spec().volumes[0].create = true;
  Begin();
  char sector[512];
  EXPECT_FALSE(f_.replica().Read(VolumeId(0), 0, sector).ok());
  EXPECT_TRUE(HasReason(f_.replica().Failover({}), kReasonNoCheckpoint));
  EXPECT_TRUE(HasReason(f_.Checkpoint().status(), kReasonIncomplete));
  const std::string data = f_.Bytes(512);
  ASSERT_EQ(f_.PrimaryWrite(0, 0, data), absl::OkStatus());
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kComplete}}, ""), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.View(0), data + std::string(kVolumeBytes - 512, '\0'));
}

// ---- disks -----------------------------------------------------------------------------------------------------------------

TEST_F(ReplicaTest, ZeroesEndAsHolesOnTheDisk) {
  Begin();
  struct stat before;
  ASSERT_EQ(stat(DiskPath(0).c_str(), &before), 0);
  ASSERT_EQ(f_.PrimaryZero(0, 0, kVolumeBytes), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  struct stat after;
  ASSERT_EQ(stat(DiskPath(0).c_str(), &after), 0);
  EXPECT_GT(before.st_blocks, 0);
  EXPECT_EQ(after.st_blocks, 0);
  EXPECT_EQ(f_.RawDisk(0), std::string(kVolumeBytes, '\0'));
}

TEST_F(ReplicaTest, AReplacedDiskIsNotServed) {
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  ASSERT_TRUE(base::FileSystem::Posix()
                  .WriteFileAtomically(DiskPath(0), std::string(kVolumeBytes, 'x'))
                  .ok());
  const absl::Status wrong = f_.replica().Start();
  EXPECT_TRUE(HasReason(wrong, kReasonWrongDisk)) << wrong;
}

TEST_F(ReplicaTest, ADiskThatVanishedAfterARestartKeepsTheGroupAndServesNothing) {
  Begin();
  f_.CloseStore();
  std::filesystem::rename(DiskPath(0), DiskPath(0) + ".away");
  {
    auto store = Store::Open(f_.options(), f_.files(), base::Clock::Real(), f_.random());
    ASSERT_EQ(store.status(), absl::OkStatus());
    auto replica = (*store)->Find("vm1");
    ASSERT_TRUE(replica.ok());
    EXPECT_EQ((*replica)->state().stage, Stage::kRunning);
    char sector[512];
    EXPECT_FALSE((*replica)->Read(VolumeId(1), 0, sector).ok());
  }
  std::filesystem::rename(DiskPath(0) + ".away", DiskPath(0));
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == f_.initial(0));
}

}  // namespace
}  // namespace understudy::storage::replica_test
