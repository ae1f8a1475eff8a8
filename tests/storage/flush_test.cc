// Beside a flush of the index, an old one or one that fails: a failover, the commit job, a frame.
#include <atomic>
#include <chrono>
#include <filesystem>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include "tests/storage/store_fixture.h"

namespace understudy::storage::flush_test {
namespace {

using testing::FileOperation;

// Asks `hook` before each write to the index's log.
class HookedFileSystem : public rocksdb::FileSystemWrapper {
 public:
  explicit HookedFileSystem(std::function<rocksdb::IOStatus()> hook)
      : FileSystemWrapper(rocksdb::FileSystem::Default()), hook_(std::move(hook)) {}
  const char* Name() const override { return "Hooked"; }
  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* result,
                                    rocksdb::IODebugContext* context) override {
    rocksdb::IOStatus opened = FileSystemWrapper::NewWritableFile(path, options, result, context);
    if (opened.ok() && absl::EndsWith(path, ".log")) {
      *result = std::make_unique<File>(std::move(*result), hook_);
    }
    return opened;
  }

 private:
  class File : public rocksdb::FSWritableFileOwnerWrapper {
   public:
    File(std::unique_ptr<rocksdb::FSWritableFile> file,
         const std::function<rocksdb::IOStatus()>& hook)
        : FSWritableFileOwnerWrapper(std::move(file)), hook_(hook) {}
    rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                             rocksdb::IODebugContext* context) override {
      const rocksdb::IOStatus hooked = hook_();
      return hooked.ok() ? FSWritableFileOwnerWrapper::Append(data, options, context) : hooked;
    }

   private:
    const std::function<rocksdb::IOStatus()>& hook_;
  };

  const std::function<rocksdb::IOStatus()> hook_;
};

// Held from the first Pass() on until Open().
class Barrier {
 public:
  void Pass() {
    if (!reached_.exchange(true)) arrived_.set_value();
    opened_.wait();
  }
  void AwaitArrival() { arrived_.get_future().wait(); }
  void Open() { open_.set_value(); }

 private:
  std::atomic<bool> reached_ = false;
  std::promise<void> arrived_;
  std::promise<void> open_;
  const std::shared_future<void> opened_ = open_.get_future().share();
};

class FlushTest : public ::testing::Test {
 protected:
  FlushTest() : primary_(f_.initial(0)) { f_.options().checkpoint_durable = false; }
  ~FlushTest() override {
    f_.files().SetHook(nullptr);
    f_.CloseStore();
  }
  void Begin() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    TakeEpoch();
    ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  }
  void TakeEpoch() {
    const std::string data = f_.Bytes(8192);
    ASSERT_EQ(f_.PrimaryWrite(0, 4096 * offset_, data), absl::OkStatus());
    primary_.replace(4096 * offset_++, data.size(), data);
    ASSERT_TRUE(f_.MarkedCheckpoint().ok());
  }
  // The next sync of the hidden log waits and ends with `first`; those after it fail.
  void HoldNextSync(Barrier& barrier, const absl::Status& first) {
    f_.files().SetHook(
        [&barrier, first, hidden = std::make_shared<std::string>(),
         mutex = std::make_shared<std::mutex>()](FileOperation operation, const std::string& path) {
          if (operation != FileOperation::kSync || !absl::EndsWith(path, ".seg")) {
            return absl::OkStatus();
          }
          {
            std::lock_guard<std::mutex> lock(*mutex);
            if (!hidden->empty()) {
              return path == *hidden ? absl::InternalError("a later sync") : absl::OkStatus();
            }
            *hidden = path;
          }
          barrier.Pass();
          return first;
        });
  }

  StoreFixture f_{1, 1};
  std::string primary_;
  uint64_t offset_ = 0;
};

// The flush knows the epoch before the one that the failover goes to, and ends after it. A kill that comes then must find the newer
// one in the log: it is the one that the VM runs on.
TEST_F(FlushTest, AnOlderFlushThatEndsAfterItLeavesTheNewestEpochToTheLog) {
  Begin();
  Barrier flush;
  HoldNextSync(flush, absl::OkStatus());
  TakeEpoch();
  flush.AwaitArrival();
  TakeEpoch();
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().committed_epoch, Epoch(3));
  const std::string written = f_.Bytes(512);
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 1 << 19, written, false), absl::OkStatus());
  primary_.replace(1 << 19, written.size(), written);
  flush.Open();
  EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::Never()).ok());  // its flush has failed
  f_.files().SetHook(nullptr);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().committed_epoch, Epoch(3));
  EXPECT_TRUE(f_.View(0) == primary_);
  if (f_.replica().state().stage == Stage::kFailoverFailed) {
    ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  }
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0) == primary_);
}

// The flush fails while the failover is being stored: the failover takes what it has found in the queue along.
TEST_F(FlushTest, AFlushThatFailsMeanwhileTakesNothingAwayFromIt) {
  Barrier stored;
  std::atomic<bool> hold = false;
  const auto env = rocksdb::NewCompositeEnv(std::make_shared<HookedFileSystem>([&] {
    if (hold) stored.Pass();
    return rocksdb::IOStatus::OK();
  }));
  f_.options().index_env = env.get();
  Begin();
  Barrier flush;
  HoldNextSync(flush, absl::InternalError("injected"));
  TakeEpoch();
  flush.AwaitArrival();
  hold = true;
  std::thread failover([&] { EXPECT_EQ(f_.replica().Failover({}), absl::OkStatus()); });
  stored.AwaitArrival();
  flush.Open();
  absl::SleepFor(absl::Milliseconds(100));  // it fails now, or waits for the failover
  hold = false;
  stored.Open();
  failover.join();
  EXPECT_EQ(f_.replica().state().committed_epoch, Epoch(2));
  EXPECT_TRUE(f_.View(0) == primary_);
  f_.replica().WaitForJobs(base::Deadline::Never()).IgnoreError();
  f_.CloseStore();
}

// The disk has a window, and the index cannot be told: after a restart it lies over the disk again. So what the VM writes there
// until then must not be on the disk alone.
TEST_F(FlushTest, WhatIsWrittenToAWindowThatTheIndexStillHasSurvivesARestart) {
  std::atomic<bool> broken = false;
  const auto env = rocksdb::NewCompositeEnv(std::make_shared<HookedFileSystem>(
      [&] { return broken ? rocksdb::IOStatus::IOError("injected") : rocksdb::IOStatus::OK(); }));
  f_.options().index_env = env.get();
  Begin();
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 1 << 19, f_.Bytes(8192), true), absl::OkStatus());
  const std::string disk = f_.spec().volumes[0].disk_path;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    if (operation == FileOperation::kWrite && path == disk) broken = true;
    return absl::OkStatus();
  });
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::Never()).ok());
  const std::string newer = f_.Bytes(512);
  ASSERT_EQ(f_.replica().Write(VolumeId(0), (1 << 19) + 512, newer, false), absl::OkStatus());
  EXPECT_TRUE(f_.View(0).substr((1 << 19) + 512, 512) == newer);
  const std::string view = f_.View(0);
  broken = false;
  f_.files().SetHook(nullptr);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == view);
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0) == view);
  f_.CloseStore();
}

// With nothing of its own to flush, the VM stands on a checkpoint that a power cut would take back:
// so its flush is not answered from memory.
TEST_F(FlushTest, AFlushOfTheVmWaitsForACheckpointThatIsNotDurableYet) {
  Begin();
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 1 << 19, f_.Bytes(512), false), absl::OkStatus());
  ASSERT_EQ(f_.replica().Flush(VolumeId(0)), absl::OkStatus());
  Barrier flush;
  HoldNextSync(flush, absl::OkStatus());
  TakeEpoch();
  flush.AwaitArrival();
  auto vm = std::async(std::launch::async, [&] { return f_.replica().Flush(VolumeId(0)); });
  EXPECT_EQ(vm.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  flush.Open();
  EXPECT_EQ(vm.get(), absl::OkStatus());
}

// What the VM has flushed may have been moved by compaction since, into what could not be synced.
TEST_F(FlushTest, AFlushWithNothingNewFailsTooOnceTheLogIsBroken) {
  StoreFixture f(1, /*volume_count=*/2);
  f.options().index_batch_delay = absl::Hours(1);  // nothing is synced but by the VM
  ASSERT_EQ(f.OpenStore(), absl::OkStatus());
  ASSERT_EQ(f.StartAndAttach(), absl::OkStatus());
  for (const VolumeId volume : {VolumeId(0), VolumeId(1)}) {
    ASSERT_EQ(f.replica().Write(volume, 0, f.Bytes(512), /*fua=*/true), absl::OkStatus());
  }
  ASSERT_EQ(f.replica().Write(VolumeId(1), 0, f.Bytes(512), false), absl::OkStatus());
  ASSERT_EQ(f.replica().Flush(VolumeId(0)), absl::OkStatus());
  f.files().SetHook([](FileOperation operation, const std::string& path) {
    const bool log = operation == FileOperation::kSync && absl::EndsWith(path, ".seg");
    return log ? absl::InternalError("injected") : absl::OkStatus();
  });
  EXPECT_FALSE(f.replica().Flush(VolumeId(1)).ok());
  f.files().SetHook(nullptr);
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(f.replica().Flush(VolumeId(0)).ok());
}

// The end of the log that it counts on is lost with the power: it is of an older epoch then, once and for all. The segments that held
// more are used again, and a later restart must not take what it finds in them for damage.
TEST_F(FlushTest, AFailoverThatAPowerCutTookBackIsWholeAfterLaterRestarts) {
  f_.options().history_epochs = 1;  // so that the commit job has work
  Begin();
  const std::string epoch1 = primary_;
  ASSERT_EQ(f_.PrimaryWrite(0, 1 << 18, f_.Bytes(4096)), absl::OkStatus());
  f_.replica().RequestDurablePoint();
  while (f_.replica().state().durable_sequence < f_.replica().state().received_sequence) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  const std::string synced = f_.directory() + "/synced";
  std::filesystem::copy(f_.options().data_dir + "/segments", synced);
  Barrier flush;
  HoldNextSync(flush, absl::OkStatus());
  ASSERT_TRUE(f_.MarkedCheckpoint().ok());
  flush.AwaitArrival();
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().committed_epoch, Epoch(2));
  std::filesystem::copy(
      synced, f_.CopyDataDir() + "/segments",
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
  const std::string disk = f_.spec().volumes[0].disk_path;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    return operation == FileOperation::kWrite && path == disk ? absl::InternalError("injected")
                                                              : absl::OkStatus();
  });
  flush.Open();
  ASSERT_EQ(f_.OpenCopy(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().committed_epoch, Epoch(1));
  EXPECT_TRUE(f_.View(0) == epoch1);
  std::string written = epoch1;
  for (const uint64_t offset : {1 << 17, 1 << 19}) {
    const std::string data = f_.Bytes(512);
    ASSERT_EQ(f_.replica().Write(VolumeId(0), offset, data, true), absl::OkStatus());
    written.replace(offset, data.size(), data);
  }
  EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::Never()).ok());
  f_.CloseStore();
  f_.files().SetHook(nullptr);

  BackgroundErrors errors;
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  f_.replica().SetListener(&errors);
  EXPECT_THAT(errors.Take(), ::testing::IsEmpty());
  EXPECT_TRUE(f_.View(0) == written);
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(f_.RawDisk(0) == written);
  f_.CloseStore();
}

// The primary's frames before it are given up with the flush. If it was taken, the index would go on behind it, and the stream too: what
// was given up would be missing for good.
TEST_F(FlushTest, AFrameOnItsWayWhenAFlushFailsIsRefused) {
  // Else a slow machine's first sync is not the checkpoint's, but one of active alone.
  f_.options().index_batch_delay = absl::Hours(1);
  Begin();
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 1 << 19, f_.Bytes(512), /*fua=*/true),
            absl::OkStatus());
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 1 << 19, f_.Bytes(512), false), absl::OkStatus());
  Barrier flush;
  Barrier frame;
  std::atomic<bool> hold_frame = false;
  std::string hidden;  // the log that the flush syncs first
  std::string active;
  f_.files().SetHook([&](FileOperation operation, const std::string& path) {
    if (!absl::EndsWith(path, ".seg")) return absl::OkStatus();
    if (operation == FileOperation::kWrite && hold_frame && path == hidden) frame.Pass();
    if (operation != FileOperation::kSync) return absl::OkStatus();
    if (hidden.empty()) hidden = path;
    if (path == hidden) return absl::OkStatus();
    if (active.empty()) active = path;
    if (path != active) return absl::OkStatus();
    flush.Pass();
    return absl::InternalError("injected");
  });
  TakeEpoch();
  flush.AwaitArrival();
  hold_frame = true;
  const std::string data = f_.Bytes(4096);
  std::thread primary([&] { EXPECT_FALSE(f_.PrimaryWrite(0, 1 << 18, data).ok()); });
  frame.AwaitArrival();
  flush.Open();
  while (f_.replica().WaitForJobs(base::Deadline::Never()).ok()) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  frame.Open();
  primary.join();
  f_.replica().RequestDurablePoint();
  absl::SleepFor(absl::Milliseconds(50));
  f_.files().SetHook(nullptr);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  const ReplicaState state = f_.replica().state();
  ASSERT_EQ(f_.replica().AttachStream(state.stream_id, false), absl::OkStatus());
  EXPECT_GE(state.received_sequence, 4u);  // two writes, two markers
  if (state.received_sequence > 4) primary_.replace(1 << 18, data.size(), data);
  ASSERT_TRUE(f_.Checkpoint().ok());
  EXPECT_TRUE(f_.View(0) == primary_);
}

}  // namespace
}  // namespace understudy::storage::flush_test
