// Kept epochs: what can be chosen, failover to an older checkpoint, clones.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/base/reason.h"
#include "tests/storage/store_fixture.h"

namespace understudy::storage::history_test {
namespace {

using ::testing::ElementsAre;
using testing::FileOperation;
using ::testing::HasSubstr;

constexpr uint64_t kBlock = 4096;

class HistoryTest : public ::testing::Test {
 protected:
  void Open(uint64_t history_epochs) {
    f_.options().history_epochs = history_epochs;
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    for (size_t v = 0; v < 2; ++v) primary_.push_back(f_.initial(v));
    views_.push_back(primary_);  // by epoch
  }
  // Writes to both volumes, one block of each at the same place every time, and takes a checkpoint.
  void TakeEpoch() {
    for (uint32_t v = 0; v < 2; ++v) {
      for (const uint64_t block : {uint64_t{3}, views_.size() + 10}) {
        const std::string data = f_.Bytes(kBlock);
        ASSERT_EQ(f_.PrimaryWrite(v, block * kBlock, data), absl::OkStatus());
        primary_[v].replace(block * kBlock, kBlock, data);
      }
    }
    ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
    views_.push_back(primary_);
  }
  void Settle() {
    ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::After(absl::Seconds(30))), absl::OkStatus());
  }
  std::vector<uint64_t> Choosable() {
    std::vector<uint64_t> epochs;
    for (const EpochInfo& info : f_.replica().History()) epochs.push_back(info.epoch.value());
    return epochs;
  }
  void ExpectViewOf(size_t epoch) {
    for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(f_.View(v) == views_[epoch][v]) << "volume " << v;
  }
  std::string CloneView(BlockView& clone, uint32_t volume) {
    std::string out(1 << 20, '?');
    const absl::Status read = clone.Read(VolumeId(volume), 0, std::span(out.data(), out.size()));
    return read.ok() ? out : read.ToString();
  }

  StoreFixture f_{1};
  std::vector<std::string> primary_;
  std::vector<std::vector<std::string>> views_;
};

TEST_F(HistoryTest, KeepsTheNewestEpochsAndAppliesTheRest) {
  Open(3);
  for (int i = 0; i < 5; ++i) TakeEpoch();
  Settle();
  EXPECT_THAT(Choosable(), ElementsAre(5, 4, 3, 2));
  const std::vector<EpochInfo> history = f_.replica().History();
  EXPECT_FALSE(history[0].on_disk);
  EXPECT_THAT(history[0].bytes, ElementsAre(2 * kBlock, 2 * kBlock));
  EXPECT_TRUE(history[3].on_disk);
  EXPECT_GT(history[3].time, absl::Now() - absl::Minutes(1));
  ExpectViewOf(5);
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(f_.RawDisk(v) == views_[2][v]);
  const ReplicaState state = f_.replica().state();
  EXPECT_EQ(state.history_epochs, 3u);
  EXPECT_EQ(state.backlog_epochs, 0u);
  EXPECT_EQ(state.usage[0].history_bytes, 6 * kBlock);
  EXPECT_EQ(state.usage[0].committed_bytes, 0u);
}

TEST_F(HistoryTest, IsThereAfterACrash) {
  Open(3);
  for (int i = 0; i < 5; ++i) TakeEpoch();
  const std::vector<EpochInfo> before = f_.replica().History();
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  Settle();
  const std::vector<EpochInfo> after = f_.replica().History();
  ASSERT_EQ(after.size(), 4u);
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(after[i].time, before[i].time);
  ExpectViewOf(5);
}

class GoBackTest : public HistoryTest, public ::testing::WithParamInterface<int> {};

// The view, and at last the raw disks, are those of the epoch, and what the secondary VM wrote after it is gone.
TEST_P(GoBackTest, FailoverShowsTheChosenEpoch) {
  const auto epoch = static_cast<size_t>(GetParam());
  Open(3);
  for (int i = 0; i < 5; ++i) TakeEpoch();
  Settle();
  ASSERT_EQ(f_.replica().Write(VolumeId(0), 0, f_.Bytes(kBlock), false), absl::OkStatus());
  ASSERT_EQ(f_.PrimaryWrite(0, kBlock, f_.Bytes(kBlock)), absl::OkStatus());
  const Term term = f_.replica().state().term;
  EXPECT_EQ(f_.replica().state().checkpoint_bytes, 4 * kBlock);
  ASSERT_EQ(f_.replica().Failover({.epoch = Epoch(epoch)}), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().checkpoint_bytes, 0u) << "those of the newest are not its";
  ExpectViewOf(epoch);
  EXPECT_EQ(f_.replica().state().committed_epoch, Epoch(epoch));
  EXPECT_GT(f_.replica().state().term, term);
  const std::string data = f_.Bytes(kBlock);
  ASSERT_EQ(f_.replica().Write(VolumeId(1), 3 * kBlock, data, true), absl::OkStatus());
  views_[epoch][1].replace(3 * kBlock, kBlock, data);
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  Settle();
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  EXPECT_EQ(f_.replica().state().checkpoint_bytes, 0u);
  ExpectViewOf(epoch);
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(f_.RawDisk(v) == views_[epoch][v]);
}

INSTANTIATE_TEST_SUITE_P(Epochs, GoBackTest, ::testing::Values(4, 3, 2));

TEST_F(HistoryTest, ADiskInUseGoesBackToNoOlderEpoch) {
  Open(3);
  for (int i = 0; i < 3; ++i) TakeEpoch();
  const absl::Status refused = f_.replica().Failover({.epoch = Epoch(2), .in_use = true});
  EXPECT_TRUE(HasReason(refused, kReasonInUse)) << refused;
  EXPECT_EQ(f_.replica().state().stage, Stage::kRunning);
  TakeEpoch();
  EXPECT_TRUE(HasReason(f_.replica().Failover({.epoch = Epoch(3), .in_use = true}), kReasonInUse));
  EXPECT_EQ(f_.replica().Failover({.epoch = Epoch(4), .in_use = true}), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().history_epochs, 0u) << "all of it is to be applied now";
}

TEST_F(HistoryTest, AnEpochThatIsNotKeptIsRefusedAndNothingChanges) {
  Open(2);
  for (int i = 0; i < 5; ++i) TakeEpoch();
  Settle();
  for (const uint64_t epoch : {2, 6}) {
    const absl::Status refused = f_.replica().Failover({.epoch = Epoch(epoch)});
    EXPECT_EQ(refused.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(refused.message(), HasSubstr("3 to 5 can be chosen"));
  }
  EXPECT_EQ(f_.replica().state().stage, Stage::kRunning);
  ExpectViewOf(5);
  TakeEpoch();
  ExpectViewOf(6);
}

// Once the apply job has begun to write an epoch to the disk, none before it is on offer: the disk may hold parts of it.
TEST_F(HistoryTest, AnEpochHalfAppliedIsNotOnOfferAlsoAfterACrash) {
  Open(1);
  TakeEpoch();
  TakeEpoch();
  Settle();
  EXPECT_THAT(Choosable(), ElementsAre(2, 1));
  f_.files().SetHook([](FileOperation operation, const std::string& path) {
    const bool disk = path.find(".img") != std::string::npos;
    return operation == FileOperation::kSync && disk ? absl::InternalError("injected")
                                                     : absl::OkStatus();
  });
  TakeEpoch();  // epoch 2 goes to the disk, whose sync fails
  EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::After(absl::Seconds(30))).ok());
  EXPECT_THAT(Choosable(), ElementsAre(3, 2));
  EXPECT_EQ(f_.replica().Failover({.epoch = Epoch(1)}).code(), absl::StatusCode::kNotFound);
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  f_.replica().WaitForJobs(base::Deadline::After(absl::Seconds(30))).IgnoreError();
  EXPECT_THAT(Choosable(), ElementsAre(3, 2));
  ExpectViewOf(3);
}

TEST_F(HistoryTest, BytesLimitHistoryToo) {
  f_.options().history_bytes = 9 * kBlock;
  Open(0);
  for (int i = 0; i < 5; ++i) TakeEpoch();  // four blocks each
  Settle();
  EXPECT_THAT(Choosable(), ElementsAre(5, 4, 3));
}

TEST_F(HistoryTest, StopAppliesAllOfIt) {
  Open(8);
  for (int i = 0; i < 5; ++i) TakeEpoch();
  ASSERT_EQ(f_.replica().Stop(), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(f_.RawDisk(v) == views_[5][v]);
}

// What was shown with --durability=none and could then not be made durable is given up by a failover, on every volume: a crash in the
// middle of the commit job must not find parts of it on the disk.
TEST_F(HistoryTest, AfterAFailedSyncTheFailoverGoesToTheNewestDurableEpoch) {
  f_.options().checkpoint_durable = false;
  f_.options().index_batch_delay = absl::Hours(1);
  Open(0);
  TakeEpoch();
  Settle();  // applied, so durable
  f_.files().SetHook([](FileOperation operation, const std::string& path) {
    const bool segment = path.find(".seg") != std::string::npos;
    return operation == FileOperation::kSync && segment ? absl::InternalError("injected")
                                                        : absl::OkStatus();
  });
  TakeEpoch();
  ExpectViewOf(2);
  EXPECT_FALSE(f_.replica().WaitForJobs(base::Deadline::After(absl::Seconds(30))).ok());
  f_.files().SetHook(nullptr);
  const absl::Status named = f_.replica().Failover({.epoch = Epoch(2)});
  EXPECT_EQ(named.code(), absl::StatusCode::kNotFound) << named;
  EXPECT_THAT(std::string(named.message()), HasSubstr("could not be made durable"));
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().committed_epoch, Epoch(1));
  ExpectViewOf(1);
  Settle();
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(f_.RawDisk(v) == views_[1][v]);
}

// ---- clones -----------------------------------------------------------------------------------------------------------------

TEST_F(HistoryTest, ACloneKeepsItsEpochWhileReplicationGoesOn) {
  Open(2);
  for (int i = 0; i < 4; ++i) TakeEpoch();
  Settle();
  for (const uint64_t epoch : {4, 3, 2}) {  // kept, kept, on the disk
    ASSERT_EQ(f_.replica().CreateClone({.name = absl::StrCat("c", epoch), .epoch = Epoch(epoch)}),
              absl::OkStatus());
  }
  for (int i = 0; i < 4; ++i) TakeEpoch();
  Settle();
  ExpectViewOf(8);
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(f_.RawDisk(v) == views_[2][v]);
  for (const uint64_t epoch : {4, 3, 2}) {
    const auto clone = f_.replica().FindClone(absl::StrCat("c", epoch));
    ASSERT_EQ(clone.status(), absl::OkStatus());
    for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(CloneView(**clone, v) == views_[epoch][v]);
  }
  // Without the clone of epoch 2, epochs 3 and on may go to the disk, as far as the next clone allows.
  ASSERT_EQ(f_.replica().RemoveClone("c2"), absl::OkStatus());
  Settle();
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(f_.RawDisk(v) == views_[3][v]);
  for (const uint64_t epoch : {4, 3}) {
    const auto clone = f_.replica().FindClone(absl::StrCat("c", epoch));
    for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(CloneView(**clone, v) == views_[epoch][v]);
  }
}

TEST_F(HistoryTest, ACloneIsWritableAndNobodyElseSeesIt) {
  Open(2);
  TakeEpoch();
  ASSERT_EQ(f_.replica().CreateClone({.name = "drill", .epoch = Epoch(1)}), absl::OkStatus());
  const auto clone = f_.replica().FindClone("drill");
  std::string expected = views_[1][0];
  for (const uint64_t offset : {512, 8192, 3 * 4096 + 512}) {
    const std::string data = f_.Bytes(1536);
    ASSERT_EQ((*clone)->Write(VolumeId(0), offset, data, true), absl::OkStatus());
    expected.replace(offset, data.size(), data);
  }
  ASSERT_EQ((*clone)->WriteZeroes(VolumeId(0), {1024, 4096}, ZeroedSpace::kKept, false),
            absl::OkStatus());
  expected.replace(1024, 3072, std::string(3072, '\0'));
  ASSERT_EQ((*clone)->Flush(VolumeId(0)), absl::OkStatus());
  EXPECT_TRUE(CloneView(**clone, 0) == expected);
  EXPECT_TRUE(CloneView(**clone, 1) == views_[1][1]);
  ExpectViewOf(1);
  const std::vector<CloneInfo> infos = f_.replica().clones();
  ASSERT_EQ(infos.size(), 1u);
  EXPECT_EQ(infos[0].written_bytes, 3 * 1536u);
  // Nothing of it is left, neither now nor after a restart.
  const uint64_t with_clone = f_.replica().state().overlay_bytes;
  ASSERT_EQ(f_.replica().RemoveClone("drill"), absl::OkStatus());
  EXPECT_EQ((*clone)->Flush(VolumeId(0)).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_LT(f_.replica().state().overlay_bytes, with_clone);
  EXPECT_EQ(f_.replica().FindClone("drill").status().code(), absl::StatusCode::kNotFound);
  ASSERT_EQ(f_.replica().CreateClone({.name = "drill", .epoch = Epoch(1)}), absl::OkStatus());
  ASSERT_EQ((*f_.replica().FindClone("drill"))->Write(VolumeId(0), 0, f_.Bytes(4096), false),
            absl::OkStatus());
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_TRUE(f_.replica().clones().empty());
  ExpectViewOf(1);
}

TEST_F(HistoryTest, AFailoverEndsClonesAndDoesNotWaitForThem) {
  Open(2);
  TakeEpoch();
  TakeEpoch();
  ASSERT_EQ(f_.replica().CreateClone({.name = "drill", .epoch = Epoch(1)}), absl::OkStatus());
  const auto clone = f_.replica().FindClone("drill");
  ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus());
  std::string out(4096, '?');
  const absl::Status read = (*clone)->Read(VolumeId(0), 0, std::span(out.data(), out.size()));
  EXPECT_EQ(read.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(read.message(), HasSubstr("failed over"));
  Settle();
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  for (uint32_t v = 0; v < 2; ++v) EXPECT_TRUE(f_.RawDisk(v) == views_[2][v]);
}

TEST_F(HistoryTest, ACloneHasALimitAndATimeToLive) {
  Open(2);
  TakeEpoch();
  ASSERT_EQ(f_.replica().CreateClone({.name = "small", .epoch = Epoch(1), .bytes_max = 8192}),
            absl::OkStatus());
  EXPECT_EQ(f_.replica().CreateClone({.name = "small", .epoch = Epoch(1)}).code(),
            absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(f_.replica().CreateClone({.name = "other", .epoch = Epoch(9)}).code(),
            absl::StatusCode::kNotFound);
  const auto small = f_.replica().FindClone("small");
  ASSERT_EQ((*small)->Write(VolumeId(0), 0, f_.Bytes(8192), false), absl::OkStatus());
  EXPECT_EQ((*small)->Write(VolumeId(0), 0, f_.Bytes(512), false).code(),
            absl::StatusCode::kResourceExhausted);
  ASSERT_EQ(f_.replica().CreateClone(
                {.name = "short", .epoch = Epoch(1), .time_to_live = absl::Milliseconds(20)}),
            absl::OkStatus());
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (f_.replica().FindClone("short").ok() && absl::Now() < deadline) {
    absl::SleepFor(absl::Milliseconds(5));
  }
  EXPECT_EQ(f_.replica().FindClone("short").status().code(), absl::StatusCode::kNotFound);
  EXPECT_TRUE(f_.replica().FindClone("small").ok());
}

}  // namespace
}  // namespace understudy::storage::history_test
