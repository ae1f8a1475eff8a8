#include "client/intent_log.h"

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/log.h"
#include "tests/testing/fault_file_system.h"
#include "tests/testing/seed.h"
#include "tests/testing/sim_disk.h"
#include "tests/testing/temp_dir.h"

namespace understudy::client::intent_log_test {
namespace {

using ::testing::ElementsAre;
using testing::FaultFileSystem;
using testing::FileOperation;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr uint64_t kRegion = IntentLog::kRegionBytes;
constexpr uint64_t kSize = 100 * kRegion + kBlockBytes;
constexpr uint64_t kNoLimit = 1 << 20;

ByteRange In(uint64_t region, uint64_t offset = kBlockBytes) {
  return ByteRange::OfLength(region * kRegion + offset, kBlockBytes);
}
ByteRange Whole(uint64_t region) { return ByteRange::OfLength(region * kRegion, kRegion); }
bool Nothing(uint32_t, ByteRange) { return false; }

std::vector<uint64_t> Indexes(const std::vector<IntentLog::Region>& regions) {
  std::vector<uint64_t> indexes;
  for (const IntentLog::Region& region : regions) indexes.push_back(region.index);
  return indexes;
}

class IntentLogTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<IntentLog>> TryOpen(uint64_t regions_max = kNoLimit) {
    return IntentLog::Open(files_, path_, volumes_, regions_max);
  }
  std::unique_ptr<IntentLog> Open(uint64_t regions_max = kNoLimit) {
    auto log = TryOpen(regions_max);
    EXPECT_TRUE(log.ok()) << log.status();
    if (log.ok()) {
      EXPECT_EQ((*log)->Make(), absl::OkStatus());
    }
    return log.ok() ? *std::move(log) : nullptr;
  }
  static void Write(IntentLog& log, ByteRange range, uint64_t sequence) {
    ASSERT_EQ(log.Begin(0, range), absl::OkStatus());
    log.End(0, range, sequence);
  }
  // All that can be cleaned with everything durable and nothing kept is.
  static void CleanAll(IntentLog& log) {
    log.Cleanable(UINT64_MAX, Nothing);
    ASSERT_EQ(log.Clear(log.Cleanable(UINT64_MAX, Nothing)), absl::OkStatus());
  }
  void FailSyncs() {
    files_.SetHook([this](FileOperation operation, const std::string& path) {
      if (operation != FileOperation::kSync || path != path_) return absl::OkStatus();
      return absl::InternalError("disk on fire");
    });
  }
  void Damage(uint64_t offset) {
    const auto file = base::FileSystem::Posix().Open(path_, {});
    char byte = 0;
    ASSERT_TRUE((*file)->Read(offset, {&byte, 1}).ok());
    byte = static_cast<char>(byte ^ 0x10);
    ASSERT_TRUE((*file)->Write(offset, absl::string_view(&byte, 1)).ok());
  }

  testing::TempDir directory_;
  FaultFileSystem files_;
  const std::string path_ = directory_.path() + "/intent";
  std::vector<VolumeSpec> volumes_ = {{.name = "root", .size_bytes = kSize}};
};

TEST_F(IntentLogTest, ARegionIsDurableWhenBeginReturns) {
  testing::SimDisk disk(1);
  ASSERT_TRUE(disk.CreateDirectory("/state").ok());
  ASSERT_TRUE(disk.SyncDirectory("/").ok());
  {
    const auto log = *IntentLog::Open(disk, "/state/intent", volumes_, kNoLimit);
    EXPECT_TRUE(log->was_missing());
    EXPECT_TRUE(log->lost());
    ASSERT_EQ(log->Make(), absl::OkStatus());
    EXPECT_THAT(log->Loaded(0), IsEmpty());
    ASSERT_TRUE(log->Begin(0, In(3)).ok());
    ASSERT_TRUE(log->Begin(0, {100 * kRegion - 512, kSize}).ok());
    disk.CutPower();
  }
  disk.Restart();
  const auto log = *IntentLog::Open(disk, "/state/intent", volumes_, kNoLimit);
  EXPECT_FALSE(log->was_missing());
  EXPECT_THAT(log->Loaded(0), ElementsAre(Whole(3), ByteRange{99 * kRegion, kSize}));
  EXPECT_EQ(log->set_regions(), 3U);
  EXPECT_EQ(log->set_bytes(), 2 * kRegion + kBlockBytes);
}

TEST_F(IntentLogTest, AWriteToAMarkedRegionCostsNoIo) {
  const auto log = Open();
  for (uint64_t i = 1; i <= 100; ++i) Write(*log, In(7, i * kBlockBytes), i);
  EXPECT_EQ(log->syncs(), 1U);
}

TEST_F(IntentLogTest, ASequentialWriterSyncsOncePerSixteenRegions) {
  const auto log = Open();
  for (uint64_t at = 0; at < 97 * kRegion; at += kRegion / 4) {
    Write(*log, ByteRange::OfLength(at, kRegion / 4), 1);
  }
  EXPECT_EQ(log->syncs(), 1U + 96 / IntentLog::kAheadRegions);
  EXPECT_THAT(log->SetRanges(0), ElementsAre(ByteRange{0, 97 * kRegion}));
}

TEST_F(IntentLogTest, NeighboursWrittenAtRandomAreNotMarkedAhead) {
  const auto log = Open();
  for (const uint64_t region : {5U, 6U, 7U, 8U}) Write(*log, In(region), 1);
  EXPECT_THAT(log->SetRanges(0), ElementsAre(ByteRange{5 * kRegion, 9 * kRegion}));
}

TEST_F(IntentLogTest, ARegionIsCleanableOnceDurableQuietAndNotKept) {
  const auto log = Open();
  Write(*log, In(1), 10);
  Write(*log, In(3), 20);
  Write(*log, In(5), 5);
  ASSERT_TRUE(log->Begin(0, In(7)).ok());
  const auto keep = [](uint32_t, ByteRange range) { return range == Whole(5); };
  EXPECT_THAT(log->Cleanable(19, keep), IsEmpty()) << "all were touched since the last call";
  EXPECT_THAT(Indexes(log->Cleanable(19, keep)), ElementsAre(1U));
  EXPECT_THAT(Indexes(log->Cleanable(20, keep)), ::testing::UnorderedElementsAre(1U, 3U));
  log->End(0, In(7), 0);
  EXPECT_THAT(Indexes(log->Cleanable(0, keep)), IsEmpty());
  EXPECT_THAT(Indexes(log->Cleanable(0, keep)), ElementsAre(7U)) << "no sequence: keep decides";
}

TEST_F(IntentLogTest, WhatIsTouchedAfterItWasProposedStaysSet) {
  const auto log = Open();
  for (const uint64_t region : {1U, 3U, 5U}) Write(*log, In(region), 1);
  log->Cleanable(1, Nothing);
  const auto proposed = log->Cleanable(1, Nothing);
  ASSERT_EQ(proposed.size(), 3U);
  Write(*log, In(1), 2);
  ASSERT_TRUE(log->Begin(0, In(3)).ok());
  ASSERT_TRUE(log->Clear(proposed).ok());
  EXPECT_THAT(log->SetRanges(0), ElementsAre(Whole(1), Whole(3)));
  EXPECT_THAT(Open()->Loaded(0), ElementsAre(Whole(1), Whole(3)));
  EXPECT_EQ(log->syncs(), 3U) << "clearing does not sync";
}

TEST_F(IntentLogTest, AClearedRegionIsMarkedAndSyncedAnew) {
  const auto log = Open();
  Write(*log, In(1), 1);
  CleanAll(*log);
  EXPECT_EQ(log->set_regions(), 0U);
  EXPECT_THAT(Open()->Loaded(0), IsEmpty());
  const auto again = Open();
  Write(*again, In(1), 1);
  CleanAll(*again);
  Write(*again, In(1), 2);
  EXPECT_EQ(again->syncs(), 2U);
  EXPECT_THAT(Open()->Loaded(0), ElementsAre(Whole(1)));
}

TEST_F(IntentLogTest, OverTheLimitTheLeastRecentlyWrittenGoFirst) {
  const auto log = Open(/*regions_max=*/2);
  for (const uint64_t region : {9U, 1U, 3U, 5U}) Write(*log, In(region), 1);
  Write(*log, In(9), 1);
  EXPECT_TRUE(log->over_limit());
  const auto proposed = log->Cleanable(1, Nothing);
  EXPECT_THAT(Indexes(proposed), ElementsAre(1U, 3U));
  ASSERT_TRUE(log->Clear(proposed).ok());
  EXPECT_FALSE(log->over_limit());
}

TEST_F(IntentLogTest, TheExcessIsWhatWasTouchedLongestAgoAndNoMore) {
  const auto log = Open(/*regions_max=*/2);
  for (const uint64_t region : {9U, 1U}) Write(*log, In(region), 1);
  EXPECT_THAT(log->Excess(1, Nothing), IsEmpty());
  for (const uint64_t region : {3U, 5U, 7U}) Write(*log, In(region), 1);
  Write(*log, In(3), 2);
  Write(*log, In(9), 1);
  const auto kept = [](uint32_t, ByteRange range) { return range == Whole(1); };
  EXPECT_THAT(Indexes(log->Excess(1, kept)), ElementsAre(5U, 7U, 9U)) << "3 is not durable";
  EXPECT_THAT(log->Cleanable(0, Nothing), IsEmpty()) << "nothing counts as looked at";
  EXPECT_THAT(Indexes(log->Excess(1, Nothing)), ElementsAre(1U, 5U, 7U));
  ASSERT_TRUE(log->Clear(log->Excess(1, Nothing)).ok());
  EXPECT_FALSE(log->over_limit());
}

// Goal: group commit. Method: the first sync is held up until everybody has asked for a bit of a region of its own; then one more
// sync is enough for all.
TEST_F(IntentLogTest, ThoseWhoWaitShareOneSyncAndNobodyReturnsBeforeItsEnd) {
  const auto log = Open();
  constexpr int kThreads = 8;
  std::atomic<bool> open_gate{false};
  std::atomic<int> syncs_done{0};
  files_.SetHook([&](FileOperation operation, const std::string& path) {
    if (operation == FileOperation::kSync && path == path_) {
      while (!open_gate.load()) std::this_thread::yield();
      syncs_done.fetch_add(1);
    }
    return absl::OkStatus();
  });
  std::atomic<int> early{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      EXPECT_TRUE(log->Begin(0, In(static_cast<uint64_t>(2 * i))).ok());
      if (syncs_done.load() == 0) early.fetch_add(1);
      log->End(0, In(static_cast<uint64_t>(2 * i)), 1);
    });
  }
  while (log->set_regions() < kThreads) std::this_thread::yield();
  open_gate.store(true);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(early.load(), 0);
  EXPECT_EQ(log->syncs(), 2U);
}

TEST_F(IntentLogTest, ManyRangesShareOneSync) {
  const auto log = Open();
  std::vector<ByteRange> ranges;
  for (uint64_t region = 0; region < 64; region += 4) ranges.push_back(In(region));
  std::vector<absl::Status> results(ranges.size());
  log->BeginAll(0, ranges, results);
  EXPECT_THAT(results, ::testing::Each(absl::OkStatus()));
  EXPECT_EQ(log->syncs(), 1U);
  for (const ByteRange& range : ranges) log->End(0, range, 1);
  EXPECT_EQ(Open()->Loaded(0).size(), ranges.size());
}

TEST_F(IntentLogTest, OfManyRangesThoseThatAreMarkedGoOnWhenTheFileFails) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  const auto log = Open();
  Write(*log, In(1), 1);
  files_.SetHook([this](FileOperation operation, const std::string& path) {
    const bool fails = operation == FileOperation::kSync || operation == FileOperation::kRemove;
    return fails && path == path_ ? absl::InternalError("disk on fire") : absl::OkStatus();
  });
  const absl::Status before = absl::OutOfRangeError("before");
  const std::vector<ByteRange> ranges = {
      In(5), In(1), {}, {2 * kRegion - 512, 2 * kRegion + 512}, {5 * kRegion, 7 * kRegion}};
  std::vector<absl::Status> results(ranges.size());
  results[2] = before;
  log->BeginAll(0, ranges, results);
  EXPECT_THAT(results[0].message(), HasSubstr("disk on fire"));
  EXPECT_EQ(results[1], absl::OkStatus());
  EXPECT_EQ(results[2], before);
  EXPECT_THAT(results[3].message(), HasSubstr("disk on fire"));
  EXPECT_THAT(results[4].message(), HasSubstr("disk on fire"));
  EXPECT_THAT(log->SetRanges(0), ElementsAre(Whole(1)));
  log->Cleanable(1, Nothing);
  EXPECT_THAT(log->Cleanable(1, Nothing), IsEmpty()) << "it has a writer";
  log->End(0, In(1), 1);
  log->Cleanable(1, Nothing);
  EXPECT_THAT(Indexes(log->Cleanable(1, Nothing)), ElementsAre(1U));
  base::SetLogSinkForTest(nullptr);
}

// Goal: no write is refused, and none is unknown after a crash. Method: the file that cannot be synced is gone, until a new one has all
// that is set.
TEST_F(IntentLogTest, AFileThatCannotBeSyncedIsRemovedAndMadeAnew) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  std::vector<std::string> told;
  auto log = *IntentLog::Open(files_, path_, volumes_, kNoLimit, 0,
                              [&told](const absl::Status& why, bool gone) {
                                EXPECT_TRUE(gone);
                                told.emplace_back(why.message());
                              });
  ASSERT_EQ(log->Make(), absl::OkStatus());
  Write(*log, In(1), 1);
  FailSyncs();
  Write(*log, In(5), 2);
  EXPECT_THAT(told, ElementsAre("disk on fire"));
  EXPECT_TRUE(log->lost());
  EXPECT_FALSE(files_.Exists(path_));
  EXPECT_EQ(log->set_bytes(), kSize) << "all would be compared";
  Write(*log, In(7), 3);
  EXPECT_EQ(log->syncs(), 2U) << "synced again, hoping";
  files_.SetHook([this](FileOperation operation, const std::string& path) {
    const bool made = operation == FileOperation::kWrite && path == path_ + ".tmp";
    return made ? base::ErrnoStatus(ENOSPC, path) : absl::OkStatus();
  });
  EXPECT_EQ(base::ErrnoOf(log->Make()), ENOSPC);
  EXPECT_FALSE(files_.Exists(path_));
  EXPECT_FALSE(files_.Exists(path_ + ".tmp")) << "it would fill the file system";
  Write(*log, In(9), 4);
  CleanAll(*log);
  Write(*log, In(11), 5);
  files_.SetHook(nullptr);
  ASSERT_EQ(log->Make(), absl::OkStatus());
  EXPECT_FALSE(log->lost());
  Write(*log, In(13), 6);
  EXPECT_THAT(Open()->Loaded(0), ElementsAre(Whole(11), Whole(13)));
  EXPECT_THAT(told, ::testing::SizeIs(1));
  base::SetLogSinkForTest(nullptr);
}

TEST_F(IntentLogTest, AFileThatCannotBeReadBackOrRemovedHoldsWritesToWhatIsNotMarked) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  std::vector<bool> told;  // whether it was gone
  const auto log =
      *IntentLog::Open(files_, path_, volumes_, kNoLimit, 0,
                       [&told](const absl::Status&, bool gone) { told.push_back(gone); });
  ASSERT_EQ(log->Make(), absl::OkStatus());
  Write(*log, In(1), 1);
  files_.SetHook([this](FileOperation operation, const std::string& path) {
    const bool fails = operation == FileOperation::kSync || operation == FileOperation::kRemove;
    return fails && path == path_ ? absl::InternalError("disk on fire") : absl::OkStatus();
  });
  const std::string refusal = std::string(log->Begin(0, In(5)).message());
  EXPECT_THAT(refusal, HasSubstr(path_));
  EXPECT_THAT(refusal, HasSubstr("neither written nor removed"));
  EXPECT_THAT(refusal, HasSubstr("remedy"));
  EXPECT_THAT(refusal, HasSubstr("disk on fire"));
  EXPECT_FALSE(log->lost());
  EXPECT_FALSE(log->kept());
  EXPECT_EQ(log->failure().message(), "disk on fire");
  files_.SetHook(nullptr);
  EXPECT_FALSE(log->Begin(0, In(7)).ok()) << "synced again, hoping";
  EXPECT_FALSE(log->Begin(0, {2 * kRegion - 512, 2 * kRegion + 512}).ok());
  Write(*log, In(1), 2);
  EXPECT_EQ(log->syncs(), 2U);
  log->Cleanable(2, Nothing);
  const auto proposed = log->Cleanable(2, Nothing);
  EXPECT_THAT(Indexes(proposed), ElementsAre(1U));
  EXPECT_FALSE(log->Clear(proposed).ok());
  EXPECT_THAT(log->SetRanges(0), ElementsAre(Whole(1)));
  // Gone, but not durably.
  files_.SetHook([](FileOperation operation, const std::string&) {
    return operation == FileOperation::kSyncDirectory ? absl::InternalError("disk on fire")
                                                      : absl::OkStatus();
  });
  for (int i = 0; i < 2; ++i) {
    EXPECT_FALSE(log->Lose(absl::InternalError("another try")).ok());
    EXPECT_FALSE(log->lost());
  }
  EXPECT_THAT(told, ElementsAre(false)) << "once, however often it is tried";
  files_.SetHook(nullptr);
  EXPECT_EQ(log->Lose(log->failure()), absl::OkStatus());
  EXPECT_FALSE(files_.Exists(path_));
  EXPECT_EQ(log->failure(), absl::OkStatus());
  EXPECT_THAT(told, ElementsAre(false, true));
  Write(*log, In(7), 3);
  EXPECT_EQ(log->Make(), absl::OkStatus());
  EXPECT_TRUE(log->kept());
  EXPECT_THAT(Open()->Loaded(0), ElementsAre(Whole(1), Whole(7)));
  base::SetLogSinkForTest(nullptr);
}

// Goal: a directory that nobody may write to any more holds no write, as long as its files can be
// written. Method: nothing can be made or removed there.
TEST_F(IntentLogTest, AFileThatCannotBeRemovedIsEmptiedAndCountsAsNone) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  const auto log = Open();
  Write(*log, In(1), 1);
  int removals = 0;
  files_.SetHook([&](FileOperation operation, const std::string& path) {
    removals += operation == FileOperation::kRemove ? 1 : 0;
    const bool fails = operation == FileOperation::kRemove ||
                       (operation == FileOperation::kWrite && absl::EndsWith(path, ".tmp"));
    return fails ? base::ErrnoStatus(EACCES, path) : absl::OkStatus();
  });
  EXPECT_EQ(log->Lose(absl::InternalError("not stored")), absl::OkStatus());
  EXPECT_EQ(removals, 1);
  EXPECT_TRUE(log->lost());
  Write(*log, In(5), 2);
  EXPECT_FALSE(log->Make().ok());
  EXPECT_TRUE(log->lost());
  EXPECT_EQ(*files_.ReadWholeFile(path_), "");
  const auto after = *TryOpen();
  EXPECT_TRUE(after->was_missing());
  EXPECT_TRUE(after->lost());
  files_.SetHook(nullptr);
  EXPECT_EQ(log->Make(), absl::OkStatus());
  EXPECT_THAT(Open()->Loaded(0), ElementsAre(Whole(1), Whole(5)));
  base::SetLogSinkForTest(nullptr);
}

// A full file system keeps no agent from coming up again.
TEST_F(IntentLogTest, OpeningItNeedsNoSpace) {
  Write(*Open(), In(3), 1);
  files_.SetHook([](FileOperation operation, const std::string& path) {
    const bool grows = operation == FileOperation::kWrite && absl::EndsWith(path, ".tmp");
    return grows ? base::ErrnoStatus(ENOSPC, path) : absl::OkStatus();
  });
  const auto log = Open();
  EXPECT_FALSE(log->lost());
  EXPECT_THAT(log->Loaded(0), ElementsAre(Whole(3)));
  Write(*log, In(5), 1);
  files_.SetHook(nullptr);
  EXPECT_THAT(Open()->Loaded(0), ElementsAre(Whole(3), Whole(5)));
}

// Its owner keeps the id later than the file gets it, or not at all.
TEST_F(IntentLogTest, AFileOfAnotherCopyIsAsGoodAsNone) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  auto log = Open();
  Write(*log, In(3), 1);
  const uint64_t first = log->id();
  const std::string older = *files_.ReadWholeFile(path_);
  const auto open = [this](uint64_t kept) {
    return *IntentLog::Open(files_, path_, volumes_, kNoLimit, kept);
  };
  for (int start = 0; start < 3; ++start) log = open(first);
  EXPECT_THAT(log->Loaded(0), ElementsAre(Whole(3)));
  const uint64_t second = log->id();
  EXPECT_NE(second, first);
  EXPECT_FALSE(open(second)->was_missing());
  ASSERT_TRUE(files_.WriteFileAtomically(path_, older).ok());
  for (int start = 0; start < 2; ++start) {
    log = open(second);
    EXPECT_TRUE(log->was_missing());
    EXPECT_TRUE(log->lost());
    EXPECT_THAT(log->Loaded(0), IsEmpty());
    EXPECT_EQ(*files_.ReadWholeFile(path_), older);
  }
  ASSERT_EQ(log->Make(), absl::OkStatus());
  EXPECT_TRUE(open(second)->was_missing()) << "what it was before does not count any more";
  EXPECT_FALSE(open(log->id())->was_missing());
  base::SetLogSinkForTest(nullptr);
}

TEST_F(IntentLogTest, AnOlderFileIsTakenAndGetsAnIdWhereItCanGrow) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  Write(*Open(), In(3), 1);
  const uint64_t with_id = files_.ReadWholeFile(path_)->size();
  for (const uint64_t cut : {512U, 100U}) {  // 100: it was killed while it grew
    ASSERT_TRUE((*files_.Open(path_, {}))->Truncate(with_id - cut).ok());
    files_.SetRangeHook([&](FileOperation operation, const std::string& path, ByteRange range) {
      const bool grows = operation == FileOperation::kWrite && range.end > with_id - cut;
      return grows ? base::ErrnoStatus(ENOSPC, path) : absl::OkStatus();
    });
    const auto without = Open();
    EXPECT_EQ(without->id(), 0U);
    EXPECT_FALSE(without->lost());
    EXPECT_THAT(without->Loaded(0), ElementsAre(Whole(3)));
    files_.SetHook(nullptr);
    const auto grown = Open();
    EXPECT_FALSE(grown->was_missing());
    EXPECT_NE(grown->id(), 0U);
    EXPECT_EQ(files_.ReadWholeFile(path_)->size(), with_id);
    EXPECT_FALSE((*IntentLog::Open(files_, path_, volumes_, kNoLimit, grown->id()))->was_missing());
  }
  base::SetLogSinkForTest(nullptr);
}

TEST_F(IntentLogTest, AFileOfOtherVolumesIsRefusedWithTheRemedy) {
  Open();
  const auto refused = [this](std::vector<VolumeSpec> volumes) {
    return IntentLog::Open(files_, path_, std::move(volumes), kNoLimit).status();
  };
  for (const absl::Status& status : {
           refused({{.name = "data", .size_bytes = kSize}}),
           refused({{.name = "root", .size_bytes = kSize + 512}}),
           refused({{.name = "root", .size_bytes = kSize}, {.name = "b", .size_bytes = kSize}}),
       }) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr(path_));
    EXPECT_THAT(status.message(), HasSubstr("remedy"));
  }
}

TEST_F(IntentLogTest, ManyVolumesHaveALongerHeader) {
  volumes_.clear();
  for (int i = 0; i < 16; ++i) {
    volumes_.push_back({.name = std::string(60, 'v') + std::to_string(i), .size_bytes = kSize});
  }
  auto log = Open();
  ASSERT_TRUE(log->Begin(15, In(9)).ok());
  log = Open();
  EXPECT_THAT(log->Loaded(15), ElementsAre(Whole(9)));
  EXPECT_THAT(log->Loaded(14), IsEmpty());
}

TEST_F(IntentLogTest, ADamagedHeaderIsRefusedAndADamagedSectorCountsAsSet) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  constexpr uint64_t kBig = (IntentLog::kRegionsPerSector + 10) * kRegion;  // two sectors
  volumes_ = {{.name = "root", .size_bytes = kBig}};
  ASSERT_TRUE(Open()->Begin(0, In(IntentLog::kRegionsPerSector + 4)).ok());
  Damage(kSectorBytes + 100);
  EXPECT_THAT(Open()->Loaded(0), ElementsAre(ByteRange{0, IntentLog::kRegionsPerSector * kRegion},
                                             Whole(IntentLog::kRegionsPerSector + 4)));
  Damage(2 * kSectorBytes + 500);
  EXPECT_THAT(Open()->Loaded(0), ElementsAre(ByteRange{0, kBig}));
  for (const uint64_t offset : {0U, 40U, 511U}) {
    Damage(offset);
    const absl::Status status = TryOpen().status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
    EXPECT_THAT(status.message(), HasSubstr("remedy"));
    Damage(offset);
  }
  Damage(8);
  EXPECT_TRUE(absl::IsFailedPrecondition(TryOpen().status())) << "another release's";
  base::SetLogSinkForTest(nullptr);
}

// Goal: no order of Begin, End, Cleanable and Clear loses a bit. Method: while a thread is between Begin and End, the bit in the
// file, read past the log, is set.
TEST_F(IntentLogTest, ManyThreadsLoseNoBit) {
  const uint64_t seed = testing::TestSeed();
  const auto log = Open(/*regions_max=*/4);
  constexpr int kThreads = 4;
  constexpr int kWrites = 400;
  std::atomic<uint64_t> sequence{0};
  std::atomic<int> running{kThreads};
  std::atomic<int> lost{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, random = std::mt19937_64(seed + static_cast<uint64_t>(i))]() mutable {
      const auto file = base::FileSystem::Posix().Open(path_, {.read_only = true});
      for (int write = 0; write < kWrites; ++write) {
        const uint64_t region = 2 * (random() % 8);
        EXPECT_TRUE(log->Begin(0, In(region)).ok());
        char byte = 0;
        EXPECT_TRUE((*file)->Read(kSectorBytes + 8 + region / 8, {&byte, 1}).ok());
        if ((static_cast<uint8_t>(byte) >> region % 8 & 1) == 0) lost.fetch_add(1);
        log->End(0, In(region), sequence.fetch_add(1) + 1);
      }
      running.fetch_sub(1);
    });
  }
  std::thread cleaner([&] {
    while (running.load() > 0) {
      const auto regions = log->Cleanable(sequence.load(), Nothing);
      EXPECT_TRUE(log->Clear(regions).ok());
    }
  });
  for (std::thread& thread : threads) thread.join();
  cleaner.join();
  EXPECT_EQ(lost.load(), 0);
  EXPECT_EQ(Open()->Loaded(0), log->SetRanges(0));
}

// The same while the file is lost and made anew all the time: whoever is between Begin and End finds no file, or its bit in it.
TEST_F(IntentLogTest, ManyThreadsLoseNoBitWithTheFile) {
  base::SetLogSinkForTest([](base::LogLevel, absl::string_view) {});
  const uint64_t seed = testing::TestSeed();
  const auto log = Open(/*regions_max=*/4);
  std::atomic<int> running{4};
  std::atomic<int> seen{0};
  std::atomic<int> missed{0};
  std::vector<std::thread> threads;
  for (int i = running.load(); i > 0; --i) {
    threads.emplace_back([&, random = std::mt19937_64(seed + static_cast<uint64_t>(i))]() mutable {
      for (int write = 0; write < 200 || seen.load() < 20; ++write) {
        const uint64_t region = 2 * (random() % 8);
        EXPECT_TRUE(log->Begin(0, In(region)).ok());
        const auto file = base::FileSystem::Posix().Open(path_, {.read_only = true});
        char byte = 0;
        if (file.ok() && (*file)->Read(kSectorBytes + 8 + region / 8, {&byte, 1}).ok()) {
          ++((static_cast<uint8_t>(byte) >> region % 8 & 1) != 0 ? seen : missed);
        }
        log->End(0, In(region), 1);
      }
      running.fetch_sub(1);
    });
  }
  std::thread owner([&] {
    while (running.load() > 0) {
      EXPECT_TRUE(log->Lose(absl::InternalError("no room")).ok());
      EXPECT_TRUE(log->Make().ok());
      EXPECT_TRUE(log->Clear(log->Cleanable(1, Nothing)).ok());
    }
  });
  for (std::thread& thread : threads) thread.join();
  owner.join();
  EXPECT_EQ(missed.load(), 0);
  EXPECT_EQ(Open()->Loaded(0), log->SetRanges(0));
  base::SetLogSinkForTest(nullptr);
}

}  // namespace
}  // namespace understudy::client::intent_log_test
