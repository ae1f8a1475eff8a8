// The failback map: what a failback must compare, and nothing else.
#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>

#include "storage/failback_map.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::failback_test {
namespace {

using ::testing::ElementsAre;
using testing::FileOperation;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

constexpr uint64_t kRegion = FailbackMap::kRegionBytes;
constexpr uint64_t kVolumeBytes = 16 << 20;
constexpr uint64_t kEverything = std::numeric_limits<uint64_t>::max();

ByteRange Region(uint64_t first, uint64_t count = 1) {
  return ByteRange::OfLength(first * kRegion, count * kRegion);
}

std::atomic<bool> full =
    false;  // of the file system of the data directory and the disks: nothing new fits

class FullFile : public rocksdb::FSWritableFileOwnerWrapper {
 public:
  using FSWritableFileOwnerWrapper::FSWritableFileOwnerWrapper;
  rocksdb::IOStatus Append(const rocksdb::Slice& data, const rocksdb::IOOptions& options,
                           rocksdb::IODebugContext* context) override {
    if (full) return rocksdb::IOStatus::NoSpace("ENOSPC");
    return FSWritableFileOwnerWrapper::Append(data, options, context);
  }
};

class FullFileSystem : public rocksdb::FileSystemWrapper {
 public:
  FullFileSystem() : FileSystemWrapper(rocksdb::FileSystem::Default()) {}
  const char* Name() const override { return "full"; }
  rocksdb::IOStatus NewWritableFile(const std::string& path, const rocksdb::FileOptions& options,
                                    std::unique_ptr<rocksdb::FSWritableFile>* file,
                                    rocksdb::IODebugContext* context) override {
    std::unique_ptr<rocksdb::FSWritableFile> real;
    const auto made = target()->NewWritableFile(path, options, &real, context);
    if (made.ok()) *file = std::make_unique<FullFile>(std::move(real));
    return made;
  }
};

class FailbackTest : public ::testing::Test {
 protected:
  FailbackTest() : f_(1, 2, kVolumeBytes) { f_.options().history_epochs = 4; }
  void TearDown() override {
    f_.files().SetHook(nullptr);
    f_.CloseStore();
  }
  void Begin() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  }
  void PrimaryWrite(uint64_t region) {
    ASSERT_EQ(f_.PrimaryWrite(0, region * kRegion + 4096, f_.Bytes(4096)), absl::OkStatus());
  }
  absl::Status VmWrite(uint64_t offset, uint64_t length = 4096, uint32_t volume = 0) {
    return f_.replica().Write(VolumeId(volume), offset, f_.Bytes(length), false);
  }
  void FailOver(FailoverOptions options = {}) {
    ASSERT_EQ(f_.replica().Failover(options), absl::OkStatus());
    ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
    ASSERT_EQ(f_.replica().state().stage, Stage::kDone);
  }
  // The disks refuse everything while `failing`, so the commit job fails.
  void FailOverWithoutDisk(const std::atomic<bool>& failing) {
    f_.files().SetHook([&](FileOperation, const std::string& path) {
      const bool disk = path.find("/disk") != std::string::npos;
      return failing && disk ? absl::InternalError("EIO") : absl::OkStatus();
    });
    ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
    f_.replica().WaitForJobs(base::Deadline::Never()).IgnoreError();
  }
  // The index takes nothing while the VM writes to region 50, so the mark is lost; then a restart,
  // with all well again. `f_` fails what it is told to meanwhile.
  void LoseAMark() {
    full = true;
    ASSERT_EQ(VmWrite(50 * kRegion), absl::OkStatus())
        << "the VM goes on, its write is on the disk";
    EXPECT_THAT(Runs(), ElementsAre(ByteRange{0, kVolumeBytes})) << "this process knows";
    f_.CloseStore();
    full = false;
    f_.files().SetHook(nullptr);
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  }
  std::vector<ByteRange> Runs(size_t volume = 0) {
    const auto failback = f_.replica().Failback();
    EXPECT_TRUE(failback.ok()) << failback.status();
    return failback.ok() ? failback->runs[volume] : std::vector<ByteRange>();
  }

  StoreFixture f_;
};

TEST_F(FailbackTest, WhatThePrimaryHadBeyondTheCheckpointAndWhatTheVmHasWritten) {
  Begin();
  PrimaryWrite(1);  // committed: both have it
  ASSERT_TRUE(f_.MarkedCheckpoint().ok());
  PrimaryWrite(3);                                                // given up
  ASSERT_EQ(VmWrite(5 * kRegion - 512, 1024), absl::OkStatus());  // before the failover, to active
  FailOver();
  EXPECT_THAT(Runs(), ElementsAre(Region(3, 3)));
  EXPECT_THAT(Runs(1), IsEmpty());
  EXPECT_EQ(f_.replica().state().usage[0].failback_bytes, 3 * kRegion);

  ASSERT_EQ(VmWrite(10 * kRegion), absl::OkStatus());
  ASSERT_EQ(f_.replica().WriteZeroes(VolumeId(1), Region(20, 100), ZeroedSpace::kKept, false),
            absl::OkStatus());
  EXPECT_THAT(Runs(), ElementsAre(Region(3, 3), Region(10)));
  EXPECT_THAT(Runs(1), ElementsAre(Region(20, 100)));
  const auto failback = f_.replica().Failback();
  EXPECT_EQ(failback->incarnation, f_.replica().state().incarnation);
  EXPECT_EQ(failback->agent_id, "agent");
}

TEST_F(FailbackTest, AStopWithoutFailoverBeginsWithNothing) {
  Begin();
  PrimaryWrite(1);
  ASSERT_EQ(VmWrite(2 * kRegion), absl::OkStatus());  // dropped: never on the disk
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  EXPECT_THAT(Runs(), IsEmpty());
  ASSERT_EQ(VmWrite(7 * kRegion), absl::OkStatus());
  EXPECT_THAT(Runs(), ElementsAre(Region(7)));
}

TEST_F(FailbackTest, EpochsThatAFailoverGoesBackBehind) {
  Begin();
  PrimaryWrite(1);
  const auto first = f_.MarkedCheckpoint();
  ASSERT_TRUE(first.ok());
  PrimaryWrite(4);
  ASSERT_TRUE(f_.MarkedCheckpoint().ok());
  PrimaryWrite(6);
  FailOver({.epoch = first->epoch});
  EXPECT_THAT(Runs(), ElementsAre(Region(4), Region(6)));
}

TEST_F(FailbackTest, ItIsDurableBeforeTheWriteAndSurvivesAKill) {
  Begin();
  PrimaryWrite(3);
  FailOver();
  ASSERT_EQ(VmWrite(9 * kRegion), absl::OkStatus());
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_THAT(Runs(), ElementsAre(Region(3), Region(9)));
  ASSERT_EQ(VmWrite(11 * kRegion), absl::OkStatus());
  EXPECT_THAT(Runs(), ElementsAre(Region(3), Region(9), Region(11)));
}

TEST_F(FailbackTest, ASequentialWriterFindsRegionsMarkedAhead) {
  Begin();
  FailOver();
  for (uint64_t at = 0; at < 40 * kRegion; at += 4096) ASSERT_EQ(VmWrite(at), absl::OkStatus());
  const std::vector<ByteRange> runs = Runs();
  ASSERT_EQ(runs.size(), 1u);
  EXPECT_GE(runs[0].end, 40 * kRegion);
  EXPECT_LE(runs[0].end, 40 * kRegion + (1 << 20));
  ASSERT_EQ(VmWrite(kVolumeBytes - kRegion - 4096, kRegion), absl::OkStatus());
  EXPECT_EQ(Runs().back().end, kVolumeBytes);
}

TEST_F(FailbackTest, ManyThreadsLoseNoMark) {
  Begin();
  FailOver();
  std::vector<std::thread> threads;
  for (uint64_t thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      const std::string data(4096, 'x');
      for (uint64_t region = thread; region < 128; region += 8) {
        EXPECT_EQ(f_.replica().Write(VolumeId(0), region * kRegion, data, false), absl::OkStatus());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::vector<bool> marked(256);
  for (const ByteRange& run : Runs()) {
    for (uint64_t at = run.start; at < run.end; at += kRegion) marked[at / kRegion] = true;
  }
  for (uint64_t region = 0; region < 128; ++region) {
    if (region % 8 < 4) {
      EXPECT_TRUE(marked[region]) << region;
    }
  }
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  for (const ByteRange& run : Runs()) {
    for (uint64_t at = run.start; at < run.end; at += kRegion) marked[at / kRegion] = false;
  }
  EXPECT_EQ(std::count(marked.begin(), marked.end(), true), 0);
}

TEST_F(FailbackTest, ACommitJobThatFailsCostsNothing) {
  Begin();
  PrimaryWrite(3);
  std::atomic<bool> failing = true;
  FailOverWithoutDisk(failing);
  EXPECT_THAT(f_.replica().Failback().status().message(), HasSubstr("whole in stage DONE"));
  failing = false;
  FailOver();
  EXPECT_THAT(Runs(), ElementsAre(Region(3)));
}

// The file whose absence beside one disk says that a mark was lost may come back from a copy.
TEST_F(FailbackTest, WhatWasLostOnceIsNotKnownAgainAfterTheCommitJob) {
  Begin();
  PrimaryWrite(3);
  std::atomic<bool> failing = true;
  FailOverWithoutDisk(failing);
  ASSERT_EQ(f_.replica().state().usage[0].failback_bytes, kRegion) << "known";
  f_.CloseStore();
  failing = false;
  const std::string file = f_.spec().volumes[0].disk_path + ".understudy-failback";
  fs::rename(file, file + "+");

  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  fs::rename(file + "+", file);
  FailOver();
  EXPECT_THAT(Runs(), ElementsAre(ByteRange{0, kVolumeBytes}));
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_THAT(Runs(), ElementsAre(ByteRange{0, kVolumeBytes}));
}

// Nobody knows any more what was given up.
TEST_F(FailbackTest, AKillBeforeTheMapHasWhatWasGivenUpMakesItEverything) {
  Begin();
  PrimaryWrite(3);
  const std::string copy = absl::StrCat(f_.options().data_dir, "+");
  std::map<std::string, std::string> markers;
  for (const VolumeSpec& volume : f_.spec().volumes) {
    const std::string path = volume.disk_path + ".understudy";
    markers[path] = f_.files().ReadWholeFile(path).value();
  }
  std::atomic<bool> copied = false;
  f_.files().SetHook([&](FileOperation, const std::string& path) {
    // The marker that the commit job writes first of all.
    if (path.find(".understudy") != std::string::npos && !copied.exchange(true)) {
      fs::copy(f_.options().data_dir, copy, fs::copy_options::recursive);
    }
    return absl::OkStatus();
  });
  FailOver();
  ASSERT_TRUE(copied);
  f_.CloseStore();
  fs::remove_all(f_.options().data_dir);
  fs::rename(copy, f_.options().data_dir);
  f_.files().SetHook(nullptr);
  for (const auto& [path, text] : markers) std::ofstream(path) << text;  // as it was then
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_THAT(Runs(), ElementsAre(ByteRange{0, kVolumeBytes}));
  EXPECT_EQ(f_.replica().Failback()->mark, kEverything);
  EXPECT_EQ(f_.replica().state().usage[0].failback_bytes, kVolumeBytes);
}

TEST_F(FailbackTest, RemoveTakesItOnlyWhole) {
  Begin();
  PrimaryWrite(3);
  EXPECT_THAT(f_.replica().Failback().status().message(), HasSubstr("whole in stage DONE"));
  FailOver();
  const auto taken = f_.replica().Failback();
  ASSERT_EQ(VmWrite(9 * kRegion), absl::OkStatus());
  EXPECT_EQ(f_.store().Remove("vm1", taken->mark).code(), absl::StatusCode::kAborted);
  ASSERT_EQ(VmWrite(9 * kRegion), absl::OkStatus()) << "it goes on";
  const auto again = f_.replica().Failback();
  EXPECT_EQ(f_.store().Remove("vm1", again->mark), absl::OkStatus());
  EXPECT_FALSE(fs::exists(f_.spec().volumes[0].disk_path + ".understudy-failback"));

  // The next life of the group begins without it.
  f_.CloseStore();
  Begin();
  FailOver();
  EXPECT_THAT(Runs(), IsEmpty());
}

class FullIndexTest : public FailbackTest {
 protected:
  FullIndexTest() { f_.options().index_env = env_.get(); }
  ~FullIndexTest() override { full = false; }

  const std::unique_ptr<rocksdb::Env> env_ =
      rocksdb::NewCompositeEnv(std::make_shared<FullFileSystem>());
};

// One cause, both places: the index and the file beside the disk lie on the file system that is full (as they do by default, and for
// a device always). The VM's writes go to blocks that the disk has already, so they succeed.
TEST_F(FullIndexTest, WhatAFullFileSystemCouldNotMarkIsNotKnownAfterARestart) {
  Begin();
  PrimaryWrite(3);
  FailOver();
  f_.files().SetHook([](FileOperation operation, const std::string& path) {
    const bool marker = path.find(".understudy") != std::string::npos;
    return marker && operation == FileOperation::kWrite ? absl::ResourceExhaustedError("ENOSPC")
                                                        : absl::OkStatus();
  });
  LoseAMark();
  const std::vector<ByteRange> runs = Runs();
  const bool named =
      std::any_of(runs.begin(), runs.end(), [](ByteRange run) { return run.Overlaps(Region(50)); });
  EXPECT_TRUE(named) << "the map is called known, and lacks what the VM has written: "
                     << ::testing::PrintToString(runs.size()) << " run(s), failback_bytes "
                     << f_.replica().state().usage[0].failback_bytes;
}

// The file that vouches for the map cannot be removed from a directory that has become root's.
TEST_F(FullIndexTest, WhatVouchesForAMapThatLostAMarkIsEmptiedWhereItCannotBeRemoved) {
  Begin();
  FailOver();
  f_.ForbidBesideDisks(/*files_too=*/false);
  LoseAMark();
  EXPECT_THAT(Runs(), ElementsAre(ByteRange{0, kVolumeBytes}));
  EXPECT_EQ(fs::file_size(f_.spec().volumes[0].disk_path + ".understudy-failback"), 0u);
}

// And the next life's, which lies in the data directory then, counts alone.
TEST_F(FailbackTest, TheNextLifeIsTrustedBesideAnEmptiedFile) {
  Begin();
  FailOver();
  f_.ForbidBesideDisks(/*files_too=*/false);
  ASSERT_EQ(f_.store().Remove("vm1", std::nullopt), absl::OkStatus());
  ASSERT_EQ(fs::file_size(f_.spec().volumes[0].disk_path + ".understudy-failback"), 0u);
  f_.CloseStore();
  Begin();
  FailOver();
  ASSERT_EQ(VmWrite(9 * kRegion), absl::OkStatus());
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_THAT(Runs(), ElementsAre(Region(9)));
}

// Nor written to, as when the file system has become read-only.
TEST_F(FullIndexTest, OrContradictedInTheDataDirectoryUntilTheNextLife) {
  Begin();
  FailOver();
  f_.ForbidBesideDisks(/*files_too=*/true);
  LoseAMark();
  EXPECT_THAT(Runs(), ElementsAre(ByteRange{0, kVolumeBytes}));
  EXPECT_GT(fs::file_size(f_.spec().volumes[0].disk_path + ".understudy-failback"), 0u);

  ASSERT_EQ(f_.store().Remove("vm1", std::nullopt), absl::OkStatus());
  f_.CloseStore();
  Begin();
  FailOver();
  ASSERT_EQ(VmWrite(9 * kRegion), absl::OkStatus());
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_THAT(Runs(), ElementsAre(Region(9)));
}

}  // namespace
}  // namespace understudy::storage::failback_test
