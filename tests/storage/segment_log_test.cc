// The log alone: what is read back, where a damaged log is cut, and where it goes on.
#include "storage/segment_log.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/crc32c.h"
#include "storage/base/file_system.h"
#include "storage/verifier.h"
#include "tests/testing/fault_file_system.h"
#include "tests/testing/temp_dir.h"

namespace understudy::storage::segment_log_test {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr uint64_t kSegmentBytes = 4 << 20;

class SegmentLogTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void TearDown() override { pool_->StopRecycling(); }

  void Open() {
    frames_.clear();
    held_.clear();
    log_ = nullptr;  // segments end before their pool
    pool_ =
        std::make_unique<SegmentPool>(files_, directory_.path(), kSegmentBytes, 64 << 20, ++seed_);
    log_ = std::make_unique<SegmentLog>(*pool_, 7, LogRole::kHidden);
    auto found = pool_->Scan();
    ASSERT_TRUE(found.ok());
    std::vector<std::shared_ptr<Segment>> segments;
    for (const auto& segment : *found) segments.push_back(*pool_->Adopt(segment));
    log_->Adopt(std::move(segments));
  }
  void Reopen() {
    pool_->StopRecycling();
    Open();
  }

  absl::StatusOr<AppendedFrame> Append(uint64_t sequence, const std::string& data,
                                       uint64_t offset = 0) {
    const Operation operation = {
        .kind = OperationKind::kData, .offset = offset, .length = data.size()};
    const std::vector<std::span<const char>> payload = {data};
    return log_->Append({.overlay = OverlayId(3),
                         .first_sequence = sequence,
                         .operations = {&operation, 1},
                         .payload = payload});
  }
  // The sequences that come back; the payloads must be what `data_of` says.
  std::vector<uint64_t> RollForward(LogPosition start = {}) {
    std::vector<uint64_t> sequences;
    const absl::Status status = log_->RollForward(start, [&](const ReplayedFrame& frame) {
      sequences.push_back(frame.header.first_sequence);
      std::string data(frame.header.payload_bytes, '?');
      EXPECT_TRUE(
          frame.segment->file().Read(frame.payload, std::span(data.data(), data.size())).ok());
      EXPECT_EQ(data, DataOf(frame.header.first_sequence));
      held_.push_back(frame.segment);
      return absl::OkStatus();
    });
    EXPECT_TRUE(status.ok()) << status;
    return sequences;
  }
  static std::string DataOf(uint64_t sequence) {
    return std::string(512 * (1 + sequence % 20), static_cast<char>('a' + sequence % 26));
  }
  void AppendMany(uint64_t from, uint64_t to) {
    for (uint64_t sequence = from; sequence <= to; ++sequence) {
      auto frame = Append(sequence, DataOf(sequence), 512 * sequence);
      ASSERT_TRUE(frame.ok()) << frame.status();
      frames_.push_back(*frame);
    }
  }
  void FlipByte(const Segment& segment, uint64_t at) {
    char byte;
    ASSERT_TRUE(segment.file().Read(at, std::span(&byte, 1)).ok());
    byte = static_cast<char>(byte ^ 0x40);
    ASSERT_TRUE(segment.file().Write(at, absl::string_view(&byte, 1)).ok());
  }

  testing::TempDir directory_;
  testing::FaultFileSystem files_;
  uint64_t seed_ = 1;
  std::unique_ptr<SegmentPool> pool_;
  std::unique_ptr<SegmentLog> log_;
  std::vector<AppendedFrame> frames_;
  std::vector<std::shared_ptr<Segment>> held_;
};

TEST_F(SegmentLogTest, FramesComeBackInOrderAcrossSegments) {
  std::vector<uint64_t> expected;
  for (uint64_t i = 1; i <= 1200; ++i) expected.push_back(i);
  AppendMany(1, 1200);
  ASSERT_GT(log_->end().ordinal, 1u);  // more than one segment
  Reopen();
  EXPECT_EQ(RollForward(), expected);
}

// A write that the disk has said it did, and did not: the file has a frame of its earlier use there, whole and as long.
TEST_F(SegmentLogTest, AFrameOfAnEarlierUseDoesNotPassForOneThatWasLost) {
  std::string earlier(2 * kBlockBytes + 4096, '\0');
  uint64_t file = 0;
  {
    const auto frame = Append(1, std::string(2 * kBlockBytes, 'a'));
    ASSERT_TRUE(frame.ok());
    file = frame->segment->number();
    ASSERT_TRUE(frame->segment->file().Read(kBlockBytes, std::span(earlier)).ok());
  }
  log_ = std::make_unique<SegmentLog>(*pool_, 8, LogRole::kHidden);
  const auto frame = Append(1, std::string(2 * kBlockBytes, 'b'));
  ASSERT_TRUE(frame.ok());
  ASSERT_EQ(frame->segment->number(), file);
  Extent extent{.origin_bytes = 2 * kBlockBytes,
                .segment = frame->segment->ordinal(),
                .position = frame->payload,
                .checksums = frame->checksums};
  const ByteRange whole = {0, 2 * kBlockBytes};
  EXPECT_THAT(*MismatchedBlocks(*frame->segment, extent, whole), IsEmpty());
  ASSERT_TRUE(frame->segment->file().Write(kBlockBytes, earlier).ok());
  EXPECT_THAT(*MismatchedBlocks(*frame->segment, extent, whole), ElementsAre(whole));
}

// Written by a release that did not know of that.
TEST_F(SegmentLogTest, ASegmentOfVersionOneIsReadAsItWasWritten) {
  auto frame = Append(1, DataOf(1));
  ASSERT_TRUE(frame.ok());
  SegmentHeader header = frame->segment->header();
  const uint32_t mask =
      std::exchange(header.version, 1u) == 2 ? frame->segment->header().checksum_mask() : 0;
  SealSegmentHeader(header);
  base::File& file = frame->segment->file();
  ASSERT_TRUE(
      file.Write(0, absl::string_view(reinterpret_cast<const char*>(&header), sizeof(header)))
          .ok());
  std::string metadata(frame->payload - kBlockBytes, '\0');
  ASSERT_TRUE(file.Read(kBlockBytes, std::span(metadata)).ok());
  FrameHeader frame_header;
  std::memcpy(&frame_header, metadata.data(), sizeof(frame_header));
  uint32_t checksum = 0;
  char* const stored = metadata.data() + (frame->checksums - kBlockBytes);
  std::memcpy(&checksum, stored, sizeof(checksum));
  EXPECT_EQ(checksum ^ mask, base::Crc32c(DataOf(1).data(), DataOf(1).size()));
  checksum ^= mask;
  std::memcpy(stored, &checksum, sizeof(checksum));
  frame_header.crc32c =
      FrameMetadataCrc(frame_header, {metadata.data() + sizeof(FrameHeader),
                                      FrameMetadataBytes(frame_header) - sizeof(FrameHeader)});
  std::memcpy(metadata.data(), &frame_header, sizeof(frame_header));
  ASSERT_TRUE(file.Write(kBlockBytes, metadata).ok());
  frame->segment = nullptr;  // before its pool
  Reopen();
  EXPECT_THAT(RollForward(), ElementsAre(1));
}

TEST_F(SegmentLogTest, FramesBeginAndEndOnFourKibibytes) {
  AppendMany(1, 30);
  for (const AppendedFrame& frame : frames_) {
    EXPECT_EQ(frame.end.offset % kBlockBytes, 0u);
    EXPECT_EQ(frame.payload % kBlockBytes, 0u);
  }
}

TEST_F(SegmentLogTest, RollForwardBeginsWhereItIsTold) {
  AppendMany(1, 10);
  const LogPosition fourth = frames_[3].end;
  Reopen();
  EXPECT_THAT(RollForward(fourth), ElementsAre(5, 6, 7, 8, 9, 10));
}

TEST_F(SegmentLogTest, ADamagedPayloadEndsTheLogThere) {
  AppendMany(1, 6);
  FlipByte(*frames_[3].segment, frames_[3].payload + 100);
  Reopen();
  EXPECT_THAT(RollForward(), ElementsAre(1, 2, 3));
}

TEST_F(SegmentLogTest, ADamagedHeaderEndsTheLogThere) {
  AppendMany(1, 6);
  FlipByte(*frames_[3].segment, frames_[2].end.offset + 50);
  Reopen();
  EXPECT_THAT(RollForward(), ElementsAre(1, 2, 3));
}

TEST_F(SegmentLogTest, StaleFramesBehindTheCutNeverComeBack) {
  AppendMany(1, 6);
  FlipByte(*frames_[3].segment, frames_[3].payload + 100);
  Reopen();
  ASSERT_THAT(RollForward(), ElementsAre(1, 2, 3));
  // Same sizes as before: frames 5 and 6 of the first life lie exactly where a careless log would find them.
  AppendMany(4, 4);
  Reopen();
  EXPECT_THAT(RollForward(), ElementsAre(1, 2, 3, 4));
}

TEST_F(SegmentLogTest, ARecycledSegmentShowsNothingOfItsEarlierUse) {
  AppendMany(1, 50);
  frames_.clear();
  log_ = nullptr;  // the file returns to the pool
  log_ = std::make_unique<SegmentLog>(*pool_, 8, LogRole::kHidden);
  AppendMany(1, 2);
  Reopen();
  ASSERT_EQ(pool_->Scan()->size(), 1u);  // the same file
  EXPECT_THAT(RollForward(), ElementsAre(1, 2));
}

TEST_F(SegmentLogTest, ALogThatIsLetGoGoesOnInAFreshSegment) {
  AppendMany(1, 3);
  const LogPosition third = log_->end();
  log_->LetGo(third);
  AppendMany(4, 4);
  EXPECT_EQ(log_->end().ordinal, 1u) << "frames_ holds the segment: it is needed";
  const LogPosition fourth = log_->end();
  ASSERT_TRUE(log_->Sync().ok());
  frames_.clear();
  log_->LetGo(third);
  AppendMany(5, 5);
  EXPECT_EQ(log_->end().ordinal, 1u) << "it goes on beyond that position";
  const LogPosition fifth = log_->end();
  ASSERT_TRUE(log_->Sync().ok());
  frames_.clear();
  log_->LetGo(fifth);
  EXPECT_GT(pool_->free_bytes(), 0u);
  AppendMany(6, 7);
  EXPECT_EQ(log_->end().ordinal, 2u);
  ASSERT_NE(fourth, fifth);
  Reopen();
  EXPECT_THAT(RollForward(fifth), ElementsAre(6, 7));
}

TEST_F(SegmentLogTest, AFailedWriteMovesTheLogToAFreshSegment) {
  AppendMany(1, 3);
  std::atomic<int> failures = 1;
  files_.SetHook([&](testing::FileOperation operation, const std::string&) {
    if (operation == testing::FileOperation::kWrite && failures.fetch_sub(1) == 1) {
      return base::ErrnoStatus(EIO, "injected");
    }
    return absl::OkStatus();
  });
  const auto failed = Append(4, DataOf(4));
  EXPECT_EQ(base::ErrnoOf(failed.status()), EIO);
  EXPECT_THAT(std::string(failed.status().message()), ::testing::HasSubstr("segment 1"));
  AppendMany(4, 6);
  EXPECT_EQ(log_->end().ordinal, 2u);
  files_.SetHook(nullptr);
  Reopen();
  EXPECT_THAT(RollForward(), ElementsAre(1, 2, 3, 4, 5, 6));
}

TEST_F(SegmentLogTest, AFailedSyncIsNeverTriedAgain) {
  AppendMany(1, 3);
  std::atomic<int> syncs = 0;
  files_.SetHook([&](testing::FileOperation operation, const std::string&) {
    if (operation != testing::FileOperation::kSync) return absl::OkStatus();
    ++syncs;
    return base::ErrnoStatus(EIO, "injected");
  });
  EXPECT_EQ(base::ErrnoOf(log_->Sync()), EIO);
  EXPECT_EQ(base::ErrnoOf(log_->Sync()), EIO);
  EXPECT_EQ(base::ErrnoOf(Append(4, DataOf(4)).status()), EIO);
  EXPECT_EQ(syncs.load(), 1);
}

TEST_F(SegmentLogTest, ASyncBesideAWriteLeavesTheFrameToTheNextSync) {
  AppendMany(1, 1);
  std::atomic<bool> once = true;
  std::atomic<int> syncs = 0;
  files_.SetHook([&](testing::FileOperation operation, const std::string&) {
    if (operation == testing::FileOperation::kWrite && once.exchange(false)) {
      EXPECT_TRUE(log_->Sync().ok());  // begins and ends before the frame is written
    }
    if (operation == testing::FileOperation::kSync) ++syncs;
    return absl::OkStatus();
  });
  AppendMany(2, 2);
  syncs = 0;
  EXPECT_TRUE(log_->Sync().ok());
  EXPECT_EQ(syncs.load(), 1);
}

TEST_F(SegmentLogTest, ASecondSyncWaitsForTheFirst) {
  AppendMany(1, 1);
  std::promise<void> inside;
  std::promise<void> go;
  std::atomic<bool> once = true;
  files_.SetHook([&](testing::FileOperation operation, const std::string&) {
    if (operation == testing::FileOperation::kSync && once.exchange(false)) {
      inside.set_value();
      go.get_future().wait();
    }
    return absl::OkStatus();
  });
  auto first = std::async(std::launch::async, [&] { return log_->Sync(); });
  inside.get_future().wait();
  auto second = std::async(std::launch::async, [&] { return log_->Sync(); });
  EXPECT_EQ(second.wait_for(std::chrono::milliseconds(50)), std::future_status::timeout);
  go.set_value();
  EXPECT_TRUE(first.get().ok());
  EXPECT_TRUE(second.get().ok());
}

TEST_F(SegmentLogTest, APreparedSegmentsStaleFrameIsNoFollower) {
  // Another log's segments, whose first frames follow the same positions as this log's will.
  const std::string big(1 << 20, 'x');
  {
    SegmentLog other(*pool_, 9, LogRole::kHidden);
    const Operation operation = {.kind = OperationKind::kData, .length = big.size()};
    const std::vector<std::span<const char>> payload = {big};
    const FrameContent content = {.overlay = OverlayId(1),
                                  .first_sequence = 1,
                                  .operations = {&operation, 1},
                                  .payload = payload};
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(other.Append(content).ok());
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(log_->Append(content).ok());
  }
  const Operation operation = {.kind = OperationKind::kData, .length = big.size()};
  const std::vector<std::span<const char>> payload = {big};
  for (uint64_t i = 5; i <= 6; ++i) {
    ASSERT_TRUE(log_->Append({.overlay = OverlayId(1),
                              .first_sequence = i,
                              .operations = {&operation, 1},
                              .payload = payload})
                    .ok());
  }
  log_->PrepareNext();  // on the other log's file
  Reopen();
  int frames = 0;
  ASSERT_TRUE(log_->RollForward({},
                                [&](const ReplayedFrame&) {
                                  ++frames;
                                  return absl::OkStatus();
                                })
                  .ok());
  EXPECT_EQ(frames, 6);
}

// Or fast writes beside a slow sync would have one file more than they need, for good.
TEST_F(SegmentLogTest, AnAppendWaitsForTheSegmentThatIsBeingMadeReady) {
  std::promise<void> go_on;
  std::shared_future<void> may_go_on = go_on.get_future().share();
  std::promise<void> preparing;
  std::atomic<bool> hold = true;
  AppendMany(1, 340);  // more than three quarters of the first segment
  ASSERT_EQ(log_->end().ordinal, 1u);
  files_.SetHook([&](testing::FileOperation operation, const std::string&) {
    if (operation == testing::FileOperation::kSync && hold.exchange(false)) {
      preparing.set_value();
      may_go_on.wait();
    }
    return absl::OkStatus();
  });
  std::thread prepare([&] { log_->PrepareNext(); });
  preparing.get_future().wait();
  std::future<uint64_t> appended = std::async(std::launch::async, [&] {
    uint64_t sequence = 340;
    for (; log_->end().ordinal == 1; ++sequence) AppendMany(sequence + 1, sequence + 1);
    return sequence;
  });
  EXPECT_EQ(appended.wait_for(std::chrono::milliseconds(300)), std::future_status::timeout);
  go_on.set_value();
  prepare.join();
  const uint64_t last = appended.get();
  EXPECT_EQ(log_->end().ordinal, 2u);
  EXPECT_EQ(files_.List(directory_.path())->size(), 2u);
  std::vector<uint64_t> expected;
  for (uint64_t i = 1; i <= last; ++i) expected.push_back(i);
  Reopen();
  EXPECT_EQ(RollForward(), expected);
}

TEST_F(SegmentLogTest, ALogWhoseSegmentsWereAllRecycledGoesOnBehindItsPosition) {
  const LogPosition indexed = {.ordinal = 5,
                               .offset = 8192};  // of a life whose files other logs have now
  EXPECT_THAT(RollForward(indexed), IsEmpty());
  AppendMany(1, 3);
  EXPECT_GT(log_->end().ordinal, indexed.ordinal);
  Reopen();
  EXPECT_THAT(RollForward(indexed), ElementsAre(1, 2, 3));
}

TEST_F(SegmentLogTest, AnEmptyDirectoryHasNothingToRollForward) {
  EXPECT_THAT(RollForward(), IsEmpty());
}

}  // namespace
}  // namespace understudy::storage::segment_log_test
