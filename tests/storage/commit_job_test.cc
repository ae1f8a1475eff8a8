// The commit job after a failover, against the VM that writes on.
#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"

namespace understudy::storage::commit_job_test {
namespace {

using testing::FileOperation;

constexpr uint64_t kVolumeBytes = 16 << 20;

thread_local bool of_the_vm = false;  // so that a hook can tell its I/O from the job's

class CommitJobTest : public ::testing::Test {
 protected:
  CommitJobTest() : f_(1, 1, kVolumeBytes), expected_(f_.initial(0)) {}
  void TearDown() override {
    f_.files().SetHook(nullptr);
    f_.CloseStore();
  }
  void Begin() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  }
  void VmWrite(uint64_t offset, const std::string& data) {
    of_the_vm = true;
    EXPECT_EQ(f_.replica().Write(VolumeId(0), offset, data, false), absl::OkStatus());
  }
  // Calls `hook` at the job's first `operation` on the disk.
  void OnFirst(FileOperation operation, std::function<void()> hook) {
    auto done = std::make_shared<std::atomic<bool>>(false);
    const std::string disk = f_.spec().volumes[0].disk_path;
    f_.files().SetHook([=, hook = std::move(hook)](FileOperation asked, const std::string& path) {
      if (asked == operation && path == disk && !of_the_vm && !done->exchange(true)) hook();
      return absl::OkStatus();
    });
  }
  // The job's first sync of the disk ends with EIO, after `before`.
  void FailFirstSync(std::function<void()> before) {
    const std::string disk = f_.spec().volumes[0].disk_path;
    f_.files().SetHook(
        [=, before = std::move(before), failed = std::make_shared<std::atomic<bool>>(false)](
            FileOperation operation, const std::string& path) {
          if (operation != FileOperation::kSync || path != disk || failed->exchange(true)) {
            return absl::OkStatus();
          }
          before();
          return base::ErrnoStatus(EIO, path);
        });
  }
  void FailOver() {
    ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
    ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
    EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  }

  StoreFixture f_;
  std::string expected_;
};

// What the VM zeroes without leave to unmap must not run out of space later.
TEST_F(CommitJobTest, ThenZeroesOfTheVmKeepTheirSpaceUnlessTheyMayGiveItBack) {
  Begin();
  FailOver();
  std::vector<FileOperation> seen;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    if (path == f_.spec().volumes[0].disk_path) seen.push_back(operation);
    return absl::OkStatus();
  });
  for (const ZeroedSpace space : {ZeroedSpace::kKept, ZeroedSpace::kGivenBack}) {
    ASSERT_EQ(f_.replica().WriteZeroes(VolumeId(0), {0, 8192}, space, false), absl::OkStatus());
  }
  EXPECT_THAT(seen, ::testing::ElementsAre(FileOperation::kZeroRange, FileOperation::kPunchHole));
}

// The job has read the window's old bytes and is about to write them; the VM writes new ones, to active.
TEST_F(CommitJobTest, AWriteToTheWindowWhileItIsCopiedReachesTheDisk) {
  Begin();
  VmWrite(0, f_.Bytes(4096));
  const std::string newest = f_.Bytes(4096);
  OnFirst(FileOperation::kWrite, [&] { std::thread([&] { VmWrite(0, newest); }).join(); });
  FailOver();
  EXPECT_TRUE(f_.RawDisk(0).substr(0, 4096) == newest);
  EXPECT_TRUE(f_.View(0).substr(0, 4096) == newest);
}

// The job has copied what was touched and syncs the disk, before it forgets the window: a write that went to active now would
// be forgotten with it.
TEST_F(CommitJobTest, AWriteToTheWindowWhileItEndsIsHeldAndReachesTheDisk) {
  Begin();
  VmWrite(0, f_.Bytes(4096));
  const std::string newest = f_.Bytes(4096);
  std::atomic<bool> written = false;
  std::thread writer;
  OnFirst(FileOperation::kSync, [&] {
    writer = std::thread([&] {
      VmWrite(0, newest);
      written = true;
    });
    for (int i = 0; i < 300 && !written; ++i) absl::SleepFor(absl::Milliseconds(1));
    EXPECT_FALSE(written);
  });
  FailOver();
  writer.join();
  EXPECT_TRUE(f_.RawDisk(0).substr(0, 4096) == newest);
  EXPECT_TRUE(f_.View(0).substr(0, 4096) == newest);
}

TEST_F(CommitJobTest, ABlockThatIsWrittenOverAndOverMeanwhileIsCopiedOnceMore) {
  Begin();
  VmWrite(0, f_.Bytes(1 << 20));
  std::string newest;
  std::atomic<int> job_writes = 0;
  std::atomic<bool> begun = false;
  const std::string disk = f_.spec().volumes[0].disk_path;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    if (operation != FileOperation::kWrite || path != disk || of_the_vm) return absl::OkStatus();
    ++job_writes;
    if (begun.exchange(true)) return absl::OkStatus();
    std::thread([&] {
      for (int i = 0; i < 1000; ++i) VmWrite(4096, newest = f_.Bytes(4096));
    }).join();
    return absl::OkStatus();
  });
  FailOver();
  EXPECT_EQ(job_writes, 2);
  EXPECT_TRUE(f_.RawDisk(0).substr(4096, 4096) == newest);
}

// Every block of the volume is in an overlay when the VM fails over, and four threads of it write without a pause, two
// in order and two anywhere. The job is bounded in bytes: each block once, and once more when it was written meanwhile.
TEST_F(CommitJobTest, ItConvergesWhileTheVmWritesAtFullSpeed) {
  Begin();
  for (uint64_t at = 0; at < kVolumeBytes; at += 1 << 20) {
    ASSERT_EQ(f_.PrimaryWrite(0, at, f_.Bytes(1 << 20)), absl::OkStatus());
  }
  std::atomic<uint64_t> job_bytes = 0;
  const std::string disk = f_.spec().volumes[0].disk_path;
  std::atomic<bool> failed_over = false;
  f_.files().SetRangeHook([&](FileOperation operation, const std::string& path, ByteRange range) {
    if (path != disk || operation != FileOperation::kWrite || of_the_vm) return absl::OkStatus();
    if (!failed_over)
      return base::ErrnoStatus(EIO, path);  // the apply job leaves it all to the commit job
    job_bytes += range.size();
    return absl::OkStatus();
  });
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  f_.replica().WaitForJobs(base::Deadline::Never()).IgnoreError();

  constexpr int kWriters = 4;
  constexpr uint64_t kPart =
      kVolumeBytes / kWriters;  // each has its own blocks, all over the volume
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> vm_writes = 0;
  std::vector<std::vector<char>> last(kWriters, std::vector<char>(kPart / 4096, '\0'));
  std::vector<std::thread> writers;
  for (int w = 0; w < kWriters; ++w) {
    writers.emplace_back([&, w] {
      std::mt19937_64 random(static_cast<uint64_t>(w));
      for (uint64_t i = 0; !stop; ++i) {
        const uint64_t block = (w % 2 == 0 ? i : random()) % (kPart / 4096);
        last[w][block] = static_cast<char>(1 + random() % 255);
        VmWrite((block * kWriters + static_cast<uint64_t>(w)) * 4096,
                std::string(4096, last[w][block]));
        ++vm_writes;
      }
    });
  }
  failed_over = true;
  EXPECT_EQ(f_.replica().Failover({}), absl::OkStatus());
  const absl::Status done = f_.replica().WaitForJobs(base::Deadline::After(absl::Minutes(2)));
  const uint64_t writes_until_done = vm_writes;
  stop = true;
  for (std::thread& writer : writers) writer.join();
  ASSERT_EQ(done, absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  EXPECT_GT(writes_until_done, 100u);
  EXPECT_LE(job_bytes, 2 * kVolumeBytes);
  EXPECT_GE(job_bytes, kVolumeBytes / 2);
  const std::string raw = f_.RawDisk(0);
  EXPECT_TRUE(raw == f_.View(0));
  for (int w = 0; w < kWriters; ++w) {
    for (uint64_t block = 0; block < last[w].size(); ++block) {
      if (last[w][block] == '\0') continue;
      const uint64_t at = (block * kWriters + static_cast<uint64_t>(w)) * 4096;
      ASSERT_TRUE(raw.compare(at, 4096, std::string(4096, last[w][block])) == 0) << at;
    }
  }
}

// ---- a sync that fails -----------------------------------------------------------------------------------------------------

// The kernel tells of a lost write once, here the job. The VM, whose write it was, must not hear from its own flush that all is well.
TEST_F(CommitJobTest, AfterAFailedSyncOfTheJobNoFlushOfTheVmSucceeds) {
  Begin();
  VmWrite(0, f_.Bytes(4096));
  FailFirstSync([&] { std::thread([&] { VmWrite(8 << 20, f_.Bytes(4096)); }).join(); });
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::Never()).ok());
  EXPECT_EQ(f_.replica().state().stage, Stage::kFailoverFailed);
  for (int i = 0; i < 2; ++i) {
    const absl::Status flushed = f_.replica().Flush(VolumeId(0));
    EXPECT_EQ(base::ErrnoOf(flushed), EIO) << flushed;
    EXPECT_THAT(std::string(flushed.message()), ::testing::HasSubstr("were lost in a sync"));
  }
  FailOver();  // the job goes on
  EXPECT_FALSE(f_.replica().Flush(VolumeId(0)).ok());
  EXPECT_EQ(base::ErrnoOf(f_.replica().state().failure), EIO);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().failure, absl::OkStatus());
  EXPECT_EQ(f_.replica().Flush(VolumeId(0)), absl::OkStatus());
}

// The same the other way round: the VM's flush was told, and the job's own sync succeeds, without what the job has copied.
TEST_F(CommitJobTest, AfterAFailedFlushOfTheVmTheJobCopiesAgain) {
  Begin();
  VmWrite(0, f_.Bytes(4096));
  VmWrite(65536, f_.Bytes(4096));
  const std::string disk = f_.spec().volumes[0].disk_path;
  std::atomic<int> job_writes = 0;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    if (path != disk) return absl::OkStatus();
    if (operation == FileOperation::kSync && of_the_vm) return base::ErrnoStatus(EIO, path);
    if (operation != FileOperation::kWrite || ++job_writes != 2) return absl::OkStatus();
    std::thread([&] {
      of_the_vm = true;
      EXPECT_FALSE(f_.replica().Flush(VolumeId(0)).ok());
    }).join();
    return absl::OkStatus();
  });
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_EQ(base::ErrnoOf(f_.replica().WaitForJobs(base::Deadline::Never())), EIO);
  EXPECT_EQ(f_.replica().state().stage, Stage::kFailoverFailed);
  FailOver();
  EXPECT_EQ(job_writes, 4);
}

// What the job has copied lies in an overlay, too.
TEST_F(CommitJobTest, AFailedSyncThatLostNothingOfTheVmIsNotItsConcern) {
  Begin();
  VmWrite(0, f_.Bytes(4096));
  FailFirstSync([] {});
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::Never()).ok());
  EXPECT_EQ(f_.replica().Flush(VolumeId(0)), absl::OkStatus());
  FailOver();
  EXPECT_EQ(f_.replica().Flush(VolumeId(0)), absl::OkStatus());
}

}  // namespace
}  // namespace understudy::storage::commit_job_test
