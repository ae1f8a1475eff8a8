// What has been received, as a primary that compares checksums sees it: everything it wrote, whatever state the standby is in, and
// nothing of the secondary VM.
#include <array>
#include <atomic>
#include <cstring>
#include <filesystem>
#include <future>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/mutex.h"
#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"
#include "tests/testing/seed.h"

namespace understudy::storage::received_test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kVolumeBytes = 1 << 20;
constexpr uint64_t kStampBytes = 4096;

class Listener : public ReplicaListener {
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

class ReceivedTest : public ::testing::Test {
 protected:
  void Open() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    for (size_t v = 0; v < 2; ++v) primary_.push_back(f_.initial(v));
  }
  void Write(uint32_t volume, uint64_t offset, size_t bytes) {
    const std::string data = f_.Bytes(bytes);
    ASSERT_EQ(f_.PrimaryWrite(volume, offset, data), absl::OkStatus());
    primary_[volume].replace(offset, bytes, data);
  }
  absl::StatusOr<CheckpointResult> Prepare() {
    std::promise<absl::StatusOr<CheckpointResult>> promise;
    auto future = promise.get_future();
    const absl::Status status = f_.Append(
        {{.kind = OperationKind::kPrepare}}, "",
        [&](absl::StatusOr<CheckpointResult> result) { promise.set_value(std::move(result)); });
    if (!status.ok()) return status;
    return future.get();
  }
  absl::StatusOr<std::string> Received(uint32_t volume) {
    std::string out(kVolumeBytes, '?');
    const absl::Status read =
        f_.replica().ReadReceived(VolumeId(volume), 0, std::span(out.data(), out.size()));
    if (!read.ok()) return read;
    return out;
  }
  void ExpectReceived(const std::string& when) {
    for (uint32_t v = 0; v < 2; ++v) {
      const auto received = Received(v);
      ASSERT_TRUE(received.ok()) << when << ": " << received.status();
      EXPECT_TRUE(*received == primary_[v]) << when << ", volume " << v;
    }
  }

  StoreFixture f_{testing::TestSeed(), 2, kVolumeBytes};
  Listener listener_;
  std::vector<std::string> primary_;
};

TEST_F(ReceivedTest, IsHiddenOverCommittedEpochsOverTheDiskAndNotWhatTheVmWrote) {
  f_.options().history_epochs = 4;
  Open();
  ExpectReceived("nothing written");
  Write(0, 512, 12288);
  Write(1, 65536, 4096);
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 0, std::string(8192, 'v'), false), absl::OkStatus());
  ExpectReceived("one epoch open");
  for (int epoch = 0; epoch < 6; ++epoch) {
    ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
    ASSERT_EQ(f_.replica().Write(VolumeId(0), 512, std::string(4096, 'v'), false),
              absl::OkStatus());
    Write(0, static_cast<uint64_t>(epoch) * 8192 + 1024, 8192);
    ASSERT_EQ(f_.PrimaryZero(1, static_cast<uint64_t>(epoch) * 65536, 32768), absl::OkStatus());
    primary_[1].replace(static_cast<uint64_t>(epoch) * 65536, 32768, 32768, '\0');
    ExpectReceived(absl::StrCat("epoch ", epoch));
  }
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  ExpectReceived("after a crash");
}

TEST_F(ReceivedTest, IsThereBeforeTheFirstSyncHasEnded) {
  for (VolumeSpec& volume : f_.spec().volumes) volume.initial = Initial::kSync;
  Open();
  std::string out(4096, '?');
  EXPECT_EQ(f_.replica().Read(VolumeId(0), 0, std::span(out.data(), out.size())).code(),
            absl::StatusCode::kFailedPrecondition);
  Write(0, 4096, 8192);
  ExpectReceived("no checkpoint yet");
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kComplete}}, ""), absl::OkStatus());
  ASSERT_EQ(f_.MarkedCheckpoint().status(), absl::OkStatus());
  Write(0, 8192, 8192);
  ExpectReceived("after the first checkpoint");
}

TEST_F(ReceivedTest, IsThereWhileIncomplete) {
  Open();
  Write(0, 4096, 8192);
  ASSERT_EQ(f_.Append({{.kind = OperationKind::kIncomplete}}, ""), absl::OkStatus());
  Write(0, 65536, 8192);
  EXPECT_EQ(f_.MarkedCheckpoint().status().code(), absl::StatusCode::kAborted);
  ExpectReceived("incomplete");
}

TEST_F(ReceivedTest, HoldsEpochsThatAreOnlyPrepared) {
  Open();
  Write(0, 0, 8192);
  ASSERT_EQ(Prepare().status(), absl::OkStatus());
  Write(0, 4096, 8192);
  ExpectReceived("one prepared");
  const auto second = Prepare();
  ASSERT_TRUE(second.ok()) << second.status();
  Write(0, 8192, 8192);
  ExpectReceived("two prepared");
  ASSERT_EQ(f_.replica().CommitPrepared(second->epoch).status(), absl::OkStatus());
  ExpectReceived("both committed");
  ASSERT_EQ(Prepare().status(), absl::OkStatus());
  ASSERT_EQ(f_.replica().AbandonPrepared().status(), absl::OkStatus());
  Write(0, 16384, 4096);
  ExpectReceived("one abandoned");
}

TEST_F(ReceivedTest, TellsZeroesFromDataWithoutReading) {
  std::filesystem::resize_file(f_.spec().volumes[1].disk_path, 0);
  std::filesystem::resize_file(f_.spec().volumes[1].disk_path, kVolumeBytes);
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  ASSERT_EQ(f_.PrimaryWrite(1, 65536, std::string(4096, 'x')), absl::OkStatus());
  ASSERT_EQ(f_.PrimaryZero(1, 131072, 4096), absl::OkStatus());
  const auto zeroes_end = [&](uint64_t from, uint64_t to) {
    return f_.replica().ReceivedZeroesEnd(VolumeId(1), {from, to}).value();
  };
  EXPECT_EQ(zeroes_end(0, kVolumeBytes), 65536u);
  EXPECT_EQ(zeroes_end(0, 32768), 32768u);
  EXPECT_EQ(zeroes_end(65536 + 512, kVolumeBytes), 65536u + 512);
  EXPECT_EQ(zeroes_end(65536 + 4096, kVolumeBytes), kVolumeBytes);
}

TEST_F(ReceivedTest, IsThereInStageRunningOnly) {
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_TRUE(HasReason(Received(0).status(), kReasonNotRunning)) << Received(0).status();
  ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  EXPECT_TRUE(Received(0).ok());
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_TRUE(HasReason(Received(0).status(), kReasonNotRunning)) << Received(0).status();
  EXPECT_TRUE(HasReason(f_.replica().ReceivedZeroesEnd(VolumeId(0), {0, 4096}).status(),
                        kReasonNotRunning));
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_TRUE(HasReason(Received(0).status(), kReasonNotRunning)) << Received(0).status();
}

TEST_F(ReceivedTest, RefusesWhatIsNoRangeOfAVolume) {
  Open();
  std::string out(4096, '?');
  const std::span<char> span(out.data(), out.size());
  EXPECT_EQ(f_.replica().ReadReceived(VolumeId(9), 0, span).code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(f_.replica().ReadReceived(VolumeId(0), kVolumeBytes, span).code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(f_.replica().ReceivedZeroesEnd(VolumeId(0), {100, 200}).status().code(),
            absl::StatusCode::kOutOfRange);
}

TEST_F(ReceivedTest, AFailingDiskIsReportedAndAnError) {
  Open();
  Write(0, 0, 65536);
  f_.replica().SetListener(&listener_);
  f_.files().SetHook([&](testing::FileOperation operation, const std::string& path) {
    const bool fails = operation == testing::FileOperation::kRead && path.ends_with("/disk0.img");
    return fails ? absl::InternalError("disk0.img: EIO") : absl::OkStatus();
  });
  const absl::Status failed = Received(0).status();
  EXPECT_EQ(failed.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(failed.message()), HasSubstr("volume vm1/v0 range [65536, "));
  ASSERT_EQ(listener_.errors().size(), 1u);
  EXPECT_EQ(listener_.errors()[0].operation, "read");
  EXPECT_EQ(listener_.errors()[0].volume, VolumeId(0));
  EXPECT_EQ(listener_.errors()[0].range, (ByteRange{65536, kVolumeBytes}));
  std::string out(65536, '?');
  EXPECT_EQ(f_.replica().ReadReceived(VolumeId(0), 0, std::span(out.data(), out.size())),
            absl::OkStatus())
      << "the overlay has it";
  f_.files().SetHook(nullptr);
  f_.replica().SetListener(nullptr);
}

TEST_F(ReceivedTest, ThereIsNoneWhenWhatWasReceivedWasGivenUp) {
  Open();
  Write(0, 0, 65536);
  f_.files().SetHook([&](testing::FileOperation operation, const std::string& path) {
    const bool fails =
        operation == testing::FileOperation::kSync && path.find("/segments/") != std::string::npos;
    return fails ? absl::InternalError("segment: EIO") : absl::OkStatus();
  });
  EXPECT_FALSE(f_.MarkedCheckpoint().ok());
  const absl::Status refused = Received(0).status();
  EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(refused.message()), HasSubstr("segment: EIO"));
  f_.files().SetHook(nullptr);
}

// ---- against everything else at once ------------------------------------------------------------------------------------------

class ReceivedRaceTest : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr uint64_t kBlocks = 64;

  void SetUp() override {
    if (GetParam()) {
      f_.options().index_memory_max = 64;
      f_.options().index_batch_delay = absl::Milliseconds(1);
      f_.options().history_epochs = 3;
      f_.options().checkpoint_durable = false;
    }
    ASSERT_TRUE(base::FileSystem::Posix()
                    .WriteFileAtomically(f_.spec().volumes[0].disk_path,
                                         std::string(kBlocks * kStampBytes, '\0'))
                    .ok());
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  }

  void ReadAndCheck(std::mt19937_64& random) {
    const uint64_t first = random() % kBlocks;
    const uint64_t count = random() % 8 != 0 ? 1 : 1 + random() % (kBlocks - first);
    std::vector<uint64_t> at_least;
    for (uint64_t n = first; n < first + count; ++n) at_least.push_back(received_[n]);
    std::string out(count * kStampBytes, '?');
    ASSERT_EQ(f_.replica().ReadReceived(VolumeId(0), first * kStampBytes,
                                        std::span(out.data(), out.size())),
              absl::OkStatus());
    for (uint64_t n = 0; n < count; ++n) {
      const char* const block = out.data() + n * kStampBytes;
      uint64_t stamp = 0;
      std::memcpy(&stamp, block, sizeof(stamp));
      ASSERT_GE(stamp, at_least[n]) << "block " << first + n;
      ASSERT_EQ(std::memcmp(block, block + sizeof(stamp), kStampBytes - sizeof(stamp)), 0);
    }
    if (++reads_ % 16 != 0) return;
    const ByteRange all = {0, kBlocks * kStampBytes};
    ASSERT_EQ(f_.replica().ReceivedZeroesEnd(VolumeId(0), all).status(), absl::OkStatus());
  }

  // A frame of a few blocks.
  void WriteBlocks() {
    std::vector<Operation> operations;
    std::vector<uint64_t> blocks;
    std::string payload;
    for (uint64_t more = 1 + f_.random()() % 3; more > 0; --more) {
      blocks.push_back(f_.random()() % kBlocks);
      operations.push_back({.kind = OperationKind::kData,
                            .offset = blocks.back() * kStampBytes,
                            .length = kStampBytes});
      const uint64_t stamp = written_ + blocks.size();
      for (size_t at = 0; at < kStampBytes; at += sizeof(stamp)) {
        payload.append(reinterpret_cast<const char*>(&stamp), sizeof(stamp));
      }
    }
    ASSERT_EQ(f_.Append(operations, payload), absl::OkStatus());
    for (const uint64_t block : blocks) received_[block] = ++written_;
  }

  void EndEpoch() {
    ++markers_;
    const auto answered = [this](const absl::StatusOr<CheckpointResult>& result) {
      EXPECT_EQ(result.status(), absl::OkStatus());
      ++answers_;
    };
    const uint64_t kind = f_.random()() % 4;
    if (kind == 0) return f_.replica().RequestCheckpoint(answered);
    if (kind > 1) {
      ASSERT_EQ(f_.Append({{.kind = OperationKind::kCheckpoint}}, "", answered), absl::OkStatus());
      return;
    }
    std::promise<absl::StatusOr<CheckpointResult>> promise;
    ASSERT_EQ(f_.Append({{.kind = OperationKind::kPrepare}}, "",
                        [&](absl::StatusOr<CheckpointResult> result) {
                          answered(result);
                          promise.set_value(std::move(result));
                        }),
              absl::OkStatus());
    const absl::StatusOr<CheckpointResult> prepared = promise.get_future().get();
    ASSERT_TRUE(prepared.ok()) << prepared.status();
    if (f_.random()() % 2 == 0) return;
    ASSERT_EQ(f_.replica().CommitPrepared(prepared->epoch).status(), absl::OkStatus());
  }

  StoreFixture f_{testing::TestSeed(), 1, kBlocks* kStampBytes};
  std::array<std::atomic<uint64_t>, kBlocks> received_ = {};  // by block: the newest write
  std::atomic<uint64_t> reads_ = 0;
  std::atomic<int> answers_ = 0;
  int markers_ = 0;
  uint64_t written_ = 0;
};

// Block n of the volume holds the number of the write that made it. Whatever the primary had written to a block when a read began,
// the read shows it or a later one, while epochs are sealed, prepared, committed, applied and compacted, and segments recycled.
TEST_P(ReceivedRaceTest, WhatWasReceivedIsSeenFromThenOn) {
  std::atomic<bool> stop = false;
  std::vector<std::thread> readers;
  for (int i = 0; i < 6; ++i) {
    readers.emplace_back([&, random = std::mt19937_64(f_.random()())]() mutable {
      while (!stop && !HasFatalFailure()) ReadAndCheck(random);
    });
  }
  const absl::Time end = absl::Now() + absl::Seconds(4);
  while (absl::Now() < end && !HasFailure()) {
    // Long epochs are compacted.
    for (uint64_t left = f_.random()() % 8 == 0 ? 600 : f_.random()() % 8; left > 0; --left) {
      WriteBlocks();
    }
    EndEpoch();
  }
  stop = true;
  for (std::thread& reader : readers) reader.join();
  EXPECT_GT(reads_, 50u);
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(answers_, markers_);
}

INSTANTIATE_TEST_SUITE_P(Memory, ReceivedRaceTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "cold" : "plenty"; });

}  // namespace
}  // namespace understudy::storage::received_test
