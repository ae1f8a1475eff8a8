// Verification in the background: what it finds, what it leaves alone, when it stops; and what damage does to reads and to apply.
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/mutex.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::scrub_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uint64_t kVolumeBytes = 4 << 20;

class Listener : public ReplicaListener {
 public:
  void OnBackgroundError(const BackgroundError& error) override {
    base::MutexLock lock(mutex_);
    errors_.push_back(error);
  }
  void OnChange() override {}
  void OnScrubEnded(const ScrubState& /*result*/) override {
    base::MutexLock lock(mutex_);
    ++scrubs_ended_;
  }
  std::vector<BackgroundError> errors() {
    base::MutexLock lock(mutex_);
    return errors_;
  }
  int scrubs_ended() {
    base::MutexLock lock(mutex_);
    return scrubs_ended_;
  }

 private:
  base::Mutex mutex_;
  std::vector<BackgroundError> errors_ ABSL_GUARDED_BY(mutex_);
  int scrubs_ended_ ABSL_GUARDED_BY(mutex_) = 0;
};

class ScrubTest : public ::testing::Test {
 protected:
  ScrubTest() : f_(7, 2, kVolumeBytes) { f_.options().history_epochs = 2; }
  void SetUp() override {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    f_.replica().SetListener(&listener_);
  }
  void TearDown() override { f_.replica().SetListener(nullptr); }

  ScrubState Scrub(const ScrubOptions& options = {}) {
    EXPECT_EQ(f_.replica().Scrub(options).status(), absl::OkStatus());
    return Finished();
  }
  ScrubState Finished() {
    ScrubState scrub = f_.replica().state().scrub;
    while (scrub.outcome == ScrubOutcome::kRunning) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      scrub = f_.replica().state().scrub;
    }
    return scrub;
  }
  // A committed epoch that is kept, the secondary VM's writes over it, and the primary's open epoch.
  void WriteEverywhere() {
    committed_ = f_.Bytes(300000 / 512 * 512);
    active_ = f_.Bytes(65536);
    hidden_ = f_.Bytes(65536);
    ASSERT_EQ(f_.PrimaryWrite(0, 512, committed_), absl::OkStatus());
    ASSERT_EQ(f_.PrimaryZero(1, 0, 65536), absl::OkStatus());
    ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
    ASSERT_EQ(f_.replica().Write(VolumeId(1), 1 << 20, active_, /*fua=*/true), absl::OkStatus());
    ASSERT_EQ(f_.PrimaryWrite(1, 2 << 20, hidden_), absl::OkStatus());
  }
  // Flips a bit of what the segments hold `at` bytes into the only place where `data` is.
  void Damage(const std::string& data, size_t at) {
    int places = 0;
    for (const auto& entry :
         std::filesystem::directory_iterator(f_.options().data_dir + "/segments")) {
      const std::string path = entry.path().string();
      const std::string bytes = *base::FileSystem::Posix().ReadWholeFile(path);
      const size_t found = bytes.find(data.substr(0, 512));
      if (found == std::string::npos) continue;
      ++places;
      std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
      file.seekp(static_cast<std::streamoff>(found + at));
      file.put(static_cast<char>(bytes[found + at] ^ 1));
    }
    ASSERT_EQ(places, 1);
  }
  absl::Status Read(uint32_t volume, ByteRange range) {
    std::vector<char> out(range.size());
    return f_.replica().Read(VolumeId(volume), range.start, out);
  }

  StoreFixture f_;
  Listener listener_;
  std::string committed_;
  std::string active_;
  std::string hidden_;
};

TEST_F(ScrubTest, ACleanScrubCountsEveryOverlay) {
  WriteEverywhere();
  const ScrubState scrub = Scrub();
  EXPECT_EQ(scrub.outcome, ScrubOutcome::kClean) << scrub.message;
  EXPECT_EQ(scrub.bytes, committed_.size() + 65536 + active_.size() + hidden_.size());
  EXPECT_GE(scrub.extents, 4u);
  EXPECT_EQ(scrub.damages, 0u);
  EXPECT_EQ(scrub.last_clean, scrub.ended);
  EXPECT_EQ(scrub.last_damage, absl::InfinitePast());
  EXPECT_EQ(listener_.scrubs_ended(), 1);
  EXPECT_EQ(Scrub().number, 2u);
}

TEST_F(ScrubTest, DamageIsNamedByVolumeEpochAndRangeInEveryOverlay) {
  WriteEverywhere();
  Damage(committed_, 8192);
  Damage(active_, 5000);
  Damage(hidden_, 0);
  const ScrubState scrub = Scrub();
  EXPECT_EQ(scrub.outcome, ScrubOutcome::kDamaged);
  EXPECT_EQ(scrub.damages, 3u);
  EXPECT_EQ(scrub.last_clean, absl::InfinitePast());
  EXPECT_GE(scrub.last_damage, scrub.started);
  EXPECT_LE(scrub.last_damage, scrub.ended);
  const std::vector<BackgroundError> errors = listener_.errors();
  ASSERT_EQ(errors.size(), 3u);
  for (const BackgroundError& error : errors) {
    EXPECT_EQ(error.operation, "scrub");
    EXPECT_EQ(error.status.code(), absl::StatusCode::kDataLoss);
  }
  EXPECT_EQ(errors[0].volume, VolumeId(0));
  EXPECT_EQ(errors[0].range, (ByteRange{8192, 12288}));  // written from 512 on
  EXPECT_THAT(std::string(errors[0].status.message()),
              AllOf(StartsWith("volume vm1/v0 epoch 1 range "), HasSubstr("checksum mismatch")));
  EXPECT_EQ(errors[1].range, ByteRange::OfLength((1 << 20) + 4096, 4096));
  EXPECT_THAT(std::string(errors[1].status.message()), StartsWith("volume vm1/v1 active epoch 2 "));
  EXPECT_EQ(errors[2].range, ByteRange::OfLength(2 << 20, 4096));
  EXPECT_THAT(std::string(errors[2].status.message()), StartsWith("volume vm1/v1 epoch 2 "));

  // What is damaged is not served, what lies beside it is.
  EXPECT_EQ(Read(0, {8192, 8704}).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(Read(0, {512, 8192}), absl::OkStatus());
  EXPECT_EQ(Read(0, {12288, 16384}), absl::OkStatus());
  EXPECT_EQ(Read(1, {0, 1 << 20}), absl::OkStatus());
}

TEST_F(ScrubTest, ASegmentCutShortIsDamage) {
  WriteEverywhere();
  for (const auto& entry :
       std::filesystem::directory_iterator(f_.options().data_dir + "/segments")) {
    std::filesystem::resize_file(entry.path(), 8192);
  }
  const ScrubState scrub = Scrub();
  EXPECT_EQ(scrub.outcome, ScrubOutcome::kDamaged);
  EXPECT_EQ(scrub.damages, 3u);
}

TEST_F(ScrubTest, ItKeepsToItsRateShowsProgressAndEndsWithAFailover) {
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(f_.PrimaryWrite(0, i << 20, f_.Bytes(1 << 20)), absl::OkStatus());
  }
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  const absl::Time begun = absl::Now();
  ASSERT_EQ(f_.replica().Scrub({.bytes_per_second = 256 << 10}).status(), absl::OkStatus());
  while (f_.replica().state().scrub.bytes < 2 << 20) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_GE(absl::Now() - begun, absl::Seconds(4));  // the first MiB
  const ReplicaState running = f_.replica().state();
  ASSERT_EQ(running.jobs.size(), 1u);
  EXPECT_EQ(running.jobs[0].kind, "scrub");
  EXPECT_EQ(running.jobs[0].total_bytes, 3u << 20);
  EXPECT_EQ(*f_.replica().Scrub({}), running.scrub.number);  // the same one
  // Neither a checkpoint nor a failover waits for it.
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().scrub.outcome, ScrubOutcome::kRunning);
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  const ScrubState ended = Finished();
  EXPECT_EQ(ended.outcome, ScrubOutcome::kStopped);
  EXPECT_THAT(ended.message, HasSubstr("the group went to stage"));
}

TEST_F(ScrubTest, ClosingEndsIt) {
  ASSERT_EQ(f_.PrimaryWrite(0, 0, f_.Bytes(1 << 20)), absl::OkStatus());
  ASSERT_EQ(f_.PrimaryWrite(0, 1 << 20, f_.Bytes(1 << 20)), absl::OkStatus());
  ASSERT_EQ(f_.replica().Scrub({.bytes_per_second = 1000}).status(), absl::OkStatus());
  f_.replica().SetListener(nullptr);
  f_.CloseStore();  // else it would take half an hour
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
}

TEST_F(ScrubTest, WritersAndCheckpointsBesideItAreNoDamage) {
  for (int round = 0; round < 20; ++round) {
    ASSERT_EQ(f_.replica().Scrub({}).status(), absl::OkStatus());
    for (int i = 0; i < 20; ++i) {
      const uint64_t at = f_.random()() % 1000 * 512;
      ASSERT_EQ(f_.PrimaryWrite(0, at, f_.Bytes(8192)), absl::OkStatus());
      ASSERT_EQ(f_.replica().Write(VolumeId(1), at, f_.Bytes(4096), false), absl::OkStatus());
    }
    ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
    EXPECT_EQ(Finished().outcome, ScrubOutcome::kClean);
  }
  EXPECT_TRUE(listener_.errors().empty());
}

// Apply leaves out what is damaged and does the rest; the epoch stays, until a newer one covers the damage.
TEST_F(ScrubTest, ApplyGoesOnAroundDamageAndKeepsTheEpoch) {
  WriteEverywhere();
  const std::string before = f_.RawDisk(0);
  Damage(committed_, 8192 - 512);
  for (int i = 0; i < 2; ++i) ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(f_.replica().state().backlog_epochs, 1u);
  EXPECT_EQ(f_.RawDisk(0).substr(512, 300000 / 512 * 512), before.substr(512, 300000 / 512 * 512));
  EXPECT_EQ(f_.RawDisk(1).substr(0, 65536), std::string(65536, '\0'));  // the other volume
  const std::vector<BackgroundError> errors = listener_.errors();
  ASSERT_EQ(errors.size(), 1u);  // once, and nothing spins
  EXPECT_EQ(errors[0].operation, "apply");
  EXPECT_THAT(std::string(errors[0].status.message()), HasSubstr("epoch 1"));
  EXPECT_EQ(Scrub().outcome, ScrubOutcome::kDamaged);

  const std::string repaired = f_.Bytes(4096);
  ASSERT_EQ(f_.PrimaryWrite(0, 8192, repaired), absl::OkStatus());
  for (int i = 0; i < 3; ++i) ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  EXPECT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  std::string expected = before;
  expected.replace(512, committed_.size(), committed_).replace(8192, 4096, repaired);
  EXPECT_TRUE(f_.RawDisk(0) == expected);
  EXPECT_EQ(Scrub().outcome, ScrubOutcome::kClean);
}

// After a failover the commit job copies the other volumes, and a write of the VM over the damage lets it end.
TEST_F(ScrubTest, AFailoverOverDamageIsFinishedOnceItIsOverwritten) {
  WriteEverywhere();
  Damage(committed_, 8192 - 512);
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(f_.replica().state().stage, Stage::kFailoverFailed);
  EXPECT_EQ(f_.RawDisk(1).substr(1 << 20, active_.size()), active_);
  const std::string repaired = f_.Bytes(4096);
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 8192, repaired, true), absl::OkStatus());
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  std::string expected = f_.initial(0);
  expected.replace(512, committed_.size(), committed_).replace(8192, 4096, repaired);
  EXPECT_TRUE(f_.RawDisk(0) == expected);
}

}  // namespace
}  // namespace understudy::storage::scrub_test
