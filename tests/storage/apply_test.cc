// The apply job: what it writes to the secondary disk, in which order, how fast, and what it must not overtake.
#include <algorithm>
#include <atomic>
#include <string>
#include <sys/stat.h>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"
#include "tests/testing/scripted_clock.h"

namespace understudy::storage::apply_test {
namespace {

using testing::FileOperation;
using ::testing::HasSubstr;

constexpr uint64_t kVolumeBytes = 16 << 20;
constexpr uint64_t kKiB = 1 << 10;

struct DiskAccess {
  FileOperation operation;
  ByteRange range;
};

class ApplyTest : public ::testing::Test {
 protected:
  ApplyTest() : f_(1, 1, kVolumeBytes), expected_(f_.initial(0)) {}
  void SetUp() override {
    f_.files().SetRangeHook(
        [this](FileOperation operation, const std::string& path, ByteRange range) {
          if (path != DiskPath()) return absl::OkStatus();
          base::MutexLock lock(mutex_);
          if (operation == FileOperation::kWrite && fail_writes_) {
            return base::ErrnoStatus(EIO, path);
          }
          if (operation == FileOperation::kClone && !clone_error_.ok()) {
            ++refused_clones_;
            return clone_error_;
          }
          if (operation != FileOperation::kRead) accesses_.push_back({operation, range});
          return absl::OkStatus();
        });
  }
  void TearDown() override {
    f_.files().SetHook(nullptr);
    f_.CloseStore();
  }
  void Begin() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  }
  void Write(uint64_t offset, const std::string& data) {
    for (uint64_t at = 0; at < data.size(); at += 1 << 20) {  // the largest frame
      ASSERT_EQ(f_.PrimaryWrite(0, offset + at, data.substr(at, 1 << 20)), absl::OkStatus());
    }
    expected_.replace(offset, data.size(), data);
  }
  void CheckpointAndApply() {
    ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
    ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
    EXPECT_TRUE(f_.RawDisk(0) == expected_);
  }
  void MakeDiskSparse() {
    const auto file = base::FileSystem::Posix().Open(DiskPath(), {});
    ASSERT_TRUE((*file)->PunchHole({0, kVolumeBytes}).ok());
    expected_.assign(kVolumeBytes, '\0');
  }
  uint64_t AllocatedBytes() {
    const auto file = base::FileSystem::Posix().Open(DiskPath(), {});
    EXPECT_TRUE((*file)->Sync().ok());
    return *(*file)->AllocatedBytes();
  }
  std::string DiskPath() { return f_.spec().volumes[0].disk_path; }
  std::vector<DiskAccess> Accesses(FileOperation operation) {
    base::MutexLock lock(mutex_);
    std::vector<DiskAccess> found;
    std::copy_if(accesses_.begin(), accesses_.end(), std::back_inserter(found),
                 [&](const DiskAccess& access) { return access.operation == operation; });
    return found;
  }
  uint64_t AccessedBytes(FileOperation operation) {
    uint64_t bytes = 0;
    for (const DiskAccess& access : Accesses(operation)) bytes += access.range.size();
    return bytes;
  }
  void FailWrites(bool on) {
    base::MutexLock lock(mutex_);
    fail_writes_ = on;
  }
  void FailClones(absl::Status error) {
    base::MutexLock lock(mutex_);
    clone_error_ = std::move(error);
  }
  int refused_clones() {
    base::MutexLock lock(mutex_);
    return refused_clones_;
  }

  StoreFixture f_;
  std::string expected_;
  base::Mutex mutex_;
  std::vector<DiskAccess> accesses_ ABSL_GUARDED_BY(mutex_);
  bool fail_writes_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status clone_error_ ABSL_GUARDED_BY(mutex_);
  int refused_clones_ ABSL_GUARDED_BY(mutex_) = 0;
};

// ---- what is written, and in which order -------------------------------------------------------------------------------------

TEST_F(ApplyTest, ARunOfEpochsIsWrittenOnceInTheOrderOfTheDisk) {
  Begin();
  FailWrites(true);  // so that the epochs gather
  for (const uint64_t first : {8192, 4096, 0}) {
    for (const uint64_t place : {9, 2, 14, 5, 0, 11}) {
      Write(place << 20 | first, f_.Bytes(64 * kKiB));
    }
    ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
    EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::Never()).ok());
  }
  EXPECT_EQ(f_.replica().state().backlog_epochs, 3u);
  FailWrites(false);
  CheckpointAndApply();
  const std::vector<DiskAccess> writes = Accesses(FileOperation::kWrite);
  uint64_t end = 0;
  for (const DiskAccess& write : writes) {
    EXPECT_GE(write.range.start, end) << write.range.ToString();
    end = write.range.end;
  }
  EXPECT_EQ(writes.size(), 6u);  // neighbours of three epochs, one write
  EXPECT_EQ(AccessedBytes(FileOperation::kWrite), 6 * (64 + 8) * kKiB);
}

TEST_F(ApplyTest, AnEpochKeptAsHistoryNeverHidesOneThatIsNot) {
  f_.options().history_epochs = 1;
  Begin();
  Write(4096, f_.Bytes(64 * kKiB));
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  const std::string first = expected_;
  Write(0, f_.Bytes(128 * kKiB));  // all over the first one
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0) == first);
  EXPECT_TRUE(f_.View(0) == expected_);
}

TEST_F(ApplyTest, SmallWritesOfAFrameAreReadAndWrittenTogether) {
  Begin();
  std::atomic<int> reads = 0;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    reads += operation == FileOperation::kRead && path.find(".seg") != std::string::npos;
    return absl::OkStatus();
  });
  std::vector<Operation> operations;
  for (uint64_t i = 0; i < 128; ++i) {
    operations.push_back({.kind = OperationKind::kData, .offset = i * 4096, .length = 4096});
  }
  const std::string data = f_.Bytes(128 * 4096);
  ASSERT_EQ(f_.Append(operations, data), absl::OkStatus());
  expected_.replace(0, data.size(), data);
  CheckpointAndApply();
  EXPECT_EQ(reads, 2);  // the data, the checksums
}

TEST_F(ApplyTest, ADamagedBlockAmongNeighboursIsNamedAndLeftOut) {
  Begin();
  FailWrites(true);
  std::vector<Operation> operations;
  for (uint64_t i = 0; i < 16; ++i) {
    operations.push_back({.kind = OperationKind::kData, .offset = i * 4096, .length = 4096});
  }
  const std::string data = f_.Bytes(16 * 4096);
  ASSERT_EQ(f_.Append(operations, data), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::Never()).ok());
  int damaged = 0;
  for (const auto& entry :
       std::filesystem::directory_iterator(f_.options().data_dir + "/segments")) {
    const std::string contents = *base::FileSystem::Posix().ReadWholeFile(entry.path());
    const size_t at = contents.find(data);
    if (at == std::string::npos) continue;
    const auto file = base::FileSystem::Posix().Open(entry.path(), {});
    ASSERT_TRUE((*file)->Write(at + 5 * 4096 + 1, "!").ok());
    ++damaged;
  }
  ASSERT_EQ(damaged, 1);
  FailWrites(false);
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  const absl::Status applied = f_.replica().WaitForJobs(base::Deadline::Never());
  EXPECT_EQ(applied.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(applied.message()), HasSubstr("epoch 1 block at 20480"));
  expected_.replace(0, data.size(), data);
  expected_.replace(5 * 4096, 4096, f_.initial(0).substr(5 * 4096, 4096));
  EXPECT_TRUE(f_.RawDisk(0) == expected_);
}

// ---- shared blocks -------------------------------------------------------------------------------------------------------------

TEST_F(ApplyTest, LongAlignedRunsShareTheirBlocksWithTheSegment) {
  f_.files().EmulateClones();
  Begin();
  Write(1 << 20, f_.Bytes(2 << 20));  // whole
  Write((4 << 20) + 512,
        f_.Bytes(1 << 20));             // its bytes lie 512 beside the blocks of the disk: written
  Write(8 << 20, f_.Bytes(32 * kKiB));  // too short to be worth it
  CheckpointAndApply();
  EXPECT_EQ(AccessedBytes(FileOperation::kClone), uint64_t{2 << 20});
  EXPECT_EQ(AccessedBytes(FileOperation::kWrite), uint64_t{1 << 20} + 32 * kKiB);
}

TEST_F(ApplyTest, OnlyTheWholeBlocksOfARunAreShared) {
  f_.files().EmulateClones();
  Begin();
  Write(0, f_.Bytes(1 << 20));
  Write(512, f_.Bytes(1024));  // the first block is of two extents now
  CheckpointAndApply();
  EXPECT_EQ(AccessedBytes(FileOperation::kClone), uint64_t{(1 << 20) - 4096});
  EXPECT_EQ(AccessedBytes(FileOperation::kWrite), 4096u);
}

TEST_F(ApplyTest, WhereBlocksCannotBeSharedItIsTriedOncePerDisk) {
  FailClones(absl::UnimplementedError("not here"));
  Begin();
  for (int epoch = 0; epoch < 3; ++epoch) {
    Write(0, f_.Bytes(4 << 20));
    CheckpointAndApply();
  }
  EXPECT_EQ(refused_clones(), 1);
  EXPECT_EQ(AccessedBytes(FileOperation::kWrite), uint64_t{12 << 20});
}

TEST_F(ApplyTest, AFailedShareIsAFailedApply) {
  FailClones(base::ErrnoStatus(ENOSPC, "disk"));
  Begin();
  Write(0, f_.Bytes(1 << 20));
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()).code(),
            absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(f_.replica().state().backlog_epochs, 1u);
  FailClones(absl::OkStatus());
  f_.files().EmulateClones();
  CheckpointAndApply();
}

// ---- zeroes --------------------------------------------------------------------------------------------------------------------

TEST_F(ApplyTest, ZeroDataOverAHoleLeavesTheHole) {
  MakeDiskSparse();
  Begin();
  Write(0, std::string(4096, '\0'));
  Write(1 << 20, std::string(2 << 20, '\0'));
  std::string mixed(128 * kKiB, '\0');
  mixed.replace(40 * kKiB, 4096, f_.Bytes(4096));
  mixed.back() = 'x';
  Write(8 << 20, mixed);
  CheckpointAndApply();
  EXPECT_EQ(AllocatedBytes(), 2 * 4096u);
  EXPECT_EQ(AccessedBytes(FileOperation::kWrite), 2 * 4096u);
}

TEST_F(ApplyTest, MuchZeroDataGivesSpaceBackAndLittleDoesNotCutTheFileUp) {
  Begin();
  const uint64_t before = AllocatedBytes();
  Write(1 << 20, std::string(512 * kKiB, '\0'));
  Write(4 << 20, std::string(32 * kKiB, '\0'));
  CheckpointAndApply();
  EXPECT_EQ(AllocatedBytes(), before - 512 * kKiB);
  EXPECT_EQ(AccessedBytes(FileOperation::kWrite), 32 * kKiB);
}

TEST_F(ApplyTest, ZeroesAndDiscardsCostNoDataInTheLog) {
  Begin();
  Write(0, f_.Bytes(4096));
  const uint64_t before = f_.store().Space()->segment_bytes;
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(f_.Append({{.kind = OperationKind::kZero, .offset = 0, .length = kVolumeBytes},
                         {.kind = OperationKind::kDiscard, .offset = 0, .length = kVolumeBytes}},
                        ""),
              absl::OkStatus());
  }
  EXPECT_EQ(f_.store().Space()->segment_bytes, before + uint64_t{100} * 4096);  // the frames
  expected_.assign(kVolumeBytes, '\0');
  CheckpointAndApply();
  EXPECT_EQ(AllocatedBytes(), 0u);
}

// ---- how fast ------------------------------------------------------------------------------------------------------------------

TEST_F(ApplyTest, ItKeepsToTheLimitOnTheRate) {
  constexpr uint64_t kRate = 4 << 20;
  constexpr uint64_t kStep = kRate / 4;
  testing::ScriptedClock clock;
  f_.set_clock(clock);
  f_.options().apply_bytes_per_second = kRate;
  Begin();
  Write(0, f_.Bytes(8 << 20));
  Write(8 << 20, f_.Bytes(4 << 20));
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  uint64_t granted = kStep + kRate / 10;
  bool done = false;
  while (!done) {
    done = f_.replica().WaitForJobs(base::Deadline::After(absl::Milliseconds(1))).ok();
    EXPECT_LE(AccessedBytes(FileOperation::kWrite), granted);
    clock.Advance(absl::Milliseconds(10));
    granted += kRate / 100;
  }
  EXPECT_TRUE(f_.RawDisk(0) == expected_);
  EXPECT_EQ(AccessedBytes(FileOperation::kWrite), uint64_t{12 << 20});
}

TEST_F(ApplyTest, GroupsShareTheLimit) {
  constexpr uint64_t kRate = 4 << 20;
  testing::ScriptedClock clock;
  f_.set_clock(clock);
  f_.options().apply_bytes_per_second = kRate;
  f_.files().SetHook(nullptr);
  Begin();
  // The first group uses up the moment; a second one, whose clock has not moved either, gets nothing.
  Write(0, f_.Bytes(2 << 20));
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  while (f_.RawDisk(0).substr(0, 4096) != expected_.substr(0, 4096)) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  GroupSpec other{.name = "vm2"};
  const std::string path = f_.directory() + "/other.img";
  ASSERT_TRUE(base::FileSystem::Posix().WriteFileAtomically(path, std::string(1 << 20, 'o')).ok());
  other.volumes.push_back({.name = "v", .top_id = "vm2/v", .disk_path = path});
  const auto replica = f_.store().Open(other);
  ASSERT_EQ(replica.status(), absl::OkStatus());
  ASSERT_EQ((*replica)->Start(), absl::OkStatus());
  const std::string data = f_.Bytes(4096);
  ASSERT_EQ((*replica)->Write(VolumeId(0), 0, data, false), absl::OkStatus());
  ASSERT_EQ((*replica)->Failover({}), absl::OkStatus());
  EXPECT_EQ((*replica)->WaitForJobs(base::Deadline::After(absl::Milliseconds(100))).code(),
            absl::StatusCode::kDeadlineExceeded);
  while (!(*replica)->WaitForJobs(base::Deadline::After(absl::Milliseconds(10))).ok()) {
    clock.Advance(absl::Milliseconds(100));
  }
  EXPECT_EQ(base::FileSystem::Posix().ReadWholeFile(path)->substr(0, 4096), data);
}

TEST_F(ApplyTest, AFailoverDoesNotWaitForTheLimit) {
  f_.options().apply_bytes_per_second = 1;
  Begin();
  Write(0, f_.Bytes(1 << 20));
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  while (f_.replica().state().jobs.empty() || f_.replica().state().jobs[0].kind != "commit") {
    absl::SleepFor(absl::Milliseconds(1));
  }
  EXPECT_TRUE(f_.View(0) == expected_);
}

// ---- what it must not overtake -------------------------------------------------------------------------------------------------

// A read resolves its range to the secondary disk and is held up there; then a checkpoint commits other bytes for the range.
// Were they applied before the read goes on, it would see them, though it began before the checkpoint's answer.
TEST_F(ApplyTest, AReadThatBeganBeforeTheCheckpointSeesTheDiskAsItWas) {
  Begin();
  std::atomic<bool> read_held = false;
  std::atomic<bool> let_read_go = false;
  std::atomic<int> disk_writes = 0;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    if (path != DiskPath()) return absl::OkStatus();
    disk_writes += operation == FileOperation::kWrite;
    if (operation == FileOperation::kRead && !read_held.exchange(true)) {
      while (!let_read_go) absl::SleepFor(absl::Milliseconds(1));
    }
    return absl::OkStatus();
  });
  Write(0, f_.Bytes(4096));
  std::string seen(4096, '?');
  absl::Status read;
  std::thread reader(
      [&] { read = f_.replica().Read(VolumeId(0), 0, std::span(seen.data(), seen.size())); });
  while (!read_held) absl::SleepFor(absl::Milliseconds(1));
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.View(0).substr(0, 4096),
            expected_.substr(0, 4096));  // a new read sees the new bytes
  for (int i = 0; i < 300 && disk_writes == 0; ++i) absl::SleepFor(absl::Milliseconds(1));
  EXPECT_EQ(disk_writes, 0);
  let_read_go = true;
  reader.join();
  EXPECT_EQ(read, absl::OkStatus());
  EXPECT_TRUE(seen == f_.initial(0).substr(0, 4096));
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0) == expected_);
}

// A failover comes while the job says that it has failed: it has a commit job nevertheless.
TEST_F(ApplyTest, AFailoverBesideAFailureHasItsOwnJob) {
  class FailsOver : public ReplicaListener {
   public:
    explicit FailsOver(Replica& replica) : replica_(replica) {}
    void OnBackgroundError(const BackgroundError& error) override {
      EXPECT_EQ(error.operation, "apply");
      std::thread([&] { EXPECT_EQ(replica_.Failover({}), absl::OkStatus()); }).join();
    }
    void OnChange() override {}

   private:
    Replica& replica_;
  };
  Begin();
  FailsOver listener(f_.replica());
  f_.replica().SetListener(&listener);
  std::atomic<bool> failed = false;
  const std::string disk = f_.spec().volumes[0].disk_path;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    const bool now = operation == FileOperation::kWrite && path == disk && !failed.exchange(true);
    return now ? base::ErrnoStatus(EIO, path) : absl::OkStatus();
  });
  const std::string data = f_.Bytes(4096);
  ASSERT_EQ(f_.PrimaryWrite(0, 0, data), absl::OkStatus());
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.replica().WaitForJobs(base::Deadline::After(absl::Seconds(30))), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  EXPECT_TRUE(f_.RawDisk(0).substr(0, data.size()) == data);
  f_.replica().SetListener(nullptr);
}

}  // namespace
}  // namespace understudy::storage::apply_test
