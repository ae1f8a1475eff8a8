// The whole chain against plain byte arrays: the primary writes, the secondary VM writes and reads, checkpoints, reopening, failover
// with the VM writing on, and the raw disk at the end. Also with next to no memory for extents, so that they come from the index
// all the time, and with many epochs kept.
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"
#include "tests/testing/seed.h"

namespace understudy::storage::replica_model_test {
namespace {

constexpr uint64_t kVolumeBytes = 2560 << 10;  // regions of the extent map: two and a half
constexpr size_t kVolumes = 2;

// What SEMANTICS say each view is.
struct Model {
  std::vector<std::string> primary;  // as the primary has written it
  std::vector<std::string> view;     // as the secondary VM must see it

  void Checkpoint() { view = primary; }
};

struct Variant {
  std::string name;
  bool durable = true;
  uint64_t index_memory_max = 256 << 20;
  uint64_t history_epochs = 0;
};

class Driver {
 public:
  Driver(uint64_t seed, const Variant& variant) : fixture_(seed, kVolumes, kVolumeBytes) {
    fixture_.options().checkpoint_durable = variant.durable;
    fixture_.options().index_memory_max = variant.index_memory_max;
    fixture_.options().history_epochs = variant.history_epochs;
    // Often enough that there is something to evict.
    fixture_.options().index_batch_delay = absl::Milliseconds(2);
    // Half of the runs leave the index far behind the log, so that a crash has much to roll forward.
    if (seed % 2 == 0) fixture_.options().index_batch_delay = absl::Hours(1);
    EXPECT_EQ(fixture_.OpenStore(), absl::OkStatus());
    EXPECT_EQ(fixture_.StartAndAttach(), absl::OkStatus());
    for (size_t v = 0; v < kVolumes; ++v) model_.primary.push_back(fixture_.initial(v));
    model_.view = model_.primary;
  }

  void Step() {
    switch (Random(16)) {
      case 0:
        return Checkpoint(/*marked=*/true);
      case 1:
        return Checkpoint(/*marked=*/false);
      case 2:
        return Random(3) == 0 ? Reopen() : Compare();
      case 3:
      case 4:
      case 5:
      case 6:
        return VmWrite();
      default:
        return PrimaryWrite();
    }
  }

  void Compare() {
    for (size_t v = 0; v < kVolumes; ++v) {
      ASSERT_TRUE(fixture_.View(static_cast<uint32_t>(v)) == model_.view[v])
          << "volume " << v << Story();
      const Run run = RandomRun();
      std::string part(run.length, '?');
      ASSERT_EQ(fixture_.replica().Read(VolumeId(static_cast<uint32_t>(v)), run.offset,
                                        std::span(part.data(), part.size())),
                absl::OkStatus());
      ASSERT_TRUE(part == model_.view[v].substr(run.offset, run.length)) << Story();
    }
  }

  // Fails over and goes on writing until the commit job is done; the raw disks must be the view.
  void FailoverAndFinish() {
    Note("failover");
    ASSERT_EQ(fixture_.replica().Failover({}), absl::OkStatus());
    for (int i = 0; i < 50; ++i) {
      VmWrite();
      if (i == 20 && Random(2) == 0) Reopen();
    }
    Compare();
    ASSERT_EQ(fixture_.replica().WaitForJobs(base::Deadline::After(absl::Seconds(60))),
              absl::OkStatus());
    ASSERT_EQ(fixture_.replica().state().stage, Stage::kDone);
    VmWrite();
    Compare();
    for (uint32_t v = 0; v < kVolumes; ++v) {
      ASSERT_TRUE(fixture_.RawDisk(v) == model_.view[v]) << "raw disk of volume " << v << Story();
    }
    Reopen();
    Compare();
  }

  uint64_t ColdReads() { return cold_reads_ + fixture_.store().Space()->extent_cold_reads; }

  // A last checkpoint, applied; active dropped.
  void StopAndFinish() {
    Note("stop");
    ASSERT_EQ(fixture_.replica().Stop(), absl::OkStatus());
    model_.Checkpoint();
    ASSERT_EQ(fixture_.replica().state().stage, Stage::kDone);
    Compare();
    for (uint32_t v = 0; v < kVolumes; ++v)
      ASSERT_TRUE(fixture_.RawDisk(v) == model_.view[v]) << Story();
  }

 private:
  struct Run {
    uint64_t offset = 0;
    uint64_t length = 0;
  };

  uint64_t Random(uint64_t bound) { return fixture_.random()() % bound; }
  Run RandomRun() {
    const uint64_t sectors = kVolumeBytes / kSectorBytes;
    const uint64_t length = 1 + Random(Random(4) == 0 ? 300 : 16);
    const uint64_t offset = Random(sectors - length);
    return {offset * kSectorBytes, length * kSectorBytes};
  }
  void Note(const std::string& what) { absl::StrAppend(&story_, "\n  ", what); }
  std::string Story() const { return absl::StrCat("\nafter:", story_); }

  void PrimaryWrite() {
    std::vector<Operation> operations;
    std::string payload;
    const uint64_t count = 1 + Random(4);
    for (uint64_t i = 0; i < count; ++i) {
      const auto volume = static_cast<uint32_t>(Random(kVolumes));
      const Run run = RandomRun();
      const bool zero = Random(5) == 0;
      const std::string data = zero ? std::string(run.length, '\0') : fixture_.Bytes(run.length);
      operations.push_back(
          {.volume = volume,
           .kind = zero ? (Random(2) == 0 ? OperationKind::kZero : OperationKind::kDiscard)
                        : OperationKind::kData,
           .offset = run.offset,
           .length = run.length});
      if (!zero) payload += data;
      model_.primary[volume].replace(run.offset, run.length, data);
      Note(absl::StrCat("primary v", volume, zero ? " zero " : " data ", run.offset, "+",
                        run.length));
    }
    ASSERT_EQ(fixture_.Append(operations, payload), absl::OkStatus()) << Story();
  }

  void VmWrite() {
    const auto volume = static_cast<uint32_t>(Random(kVolumes));
    if (Random(5) == 0) return VmWriteZeroes(volume);
    const size_t count = Random(2) == 0 ? 1 : 1 + Random(4);
    std::vector<std::string> data;
    std::vector<BlockWrite> writes;
    for (size_t i = 0; i < count; ++i) {
      const Run run = RandomRun();
      Note(absl::StrCat("vm v", volume, i == 0 ? " data " : " with ", run.offset, "+", run.length));
      data.push_back(fixture_.Bytes(run.length));
      model_.view[volume].replace(run.offset, run.length, data.back());
      writes.push_back({.offset = run.offset, .fua = Random(8) == 0});
    }
    for (size_t i = 0; i < count; ++i) writes[i].data = data[i];
    std::vector<absl::Status> results(count);
    fixture_.replica().WriteAll(VolumeId(volume), writes, results);
    for (const absl::Status& result : results) ASSERT_EQ(result, absl::OkStatus()) << Story();
  }

  void VmWriteZeroes(uint32_t volume) {
    const Run run = RandomRun();
    Note(absl::StrCat("vm v", volume, " zero ", run.offset, "+", run.length));
    const bool fua = Random(8) == 0;
    ASSERT_EQ(fixture_.replica().WriteZeroes(
                  VolumeId(volume), ByteRange::OfLength(run.offset, run.length),
                  fua ? ZeroedSpace::kKept : ZeroedSpace::kGivenBack, fua),
              absl::OkStatus())
        << Story();
    model_.view[volume].replace(run.offset, run.length, run.length, '\0');
  }

  void Checkpoint(bool marked) {
    Note(marked ? "checkpoint, marked" : "checkpoint");
    const auto result = marked ? fixture_.MarkedCheckpoint() : fixture_.Checkpoint();
    ASSERT_EQ(result.status(), absl::OkStatus()) << Story();
    ++epochs_;
    ASSERT_EQ(result->epoch, Epoch(epochs_)) << Story();
    model_.Checkpoint();
    Compare();
  }

  void Reopen() {
    const ReplicaState before = fixture_.replica().state();
    cold_reads_ = ColdReads();
    if (before.stage == Stage::kRunning && Random(2) == 0) {
      Note("crash");
      ASSERT_EQ(fixture_.CrashAndOpen(), absl::OkStatus()) << Story();
    } else {
      Note("reopen");
      fixture_.CloseStore();
      ASSERT_EQ(fixture_.OpenStore(), absl::OkStatus()) << Story();
    }
    const ReplicaState state = fixture_.replica().state();
    if (before.stage == Stage::kRunning) {  // a failover gave up what was not committed
      ASSERT_EQ(state.received_sequence, before.received_sequence) << Story();
      ASSERT_EQ(state.history_epochs, before.history_epochs) << Story();
      for (size_t v = 0; v < kVolumes; ++v) {
        ASSERT_EQ(state.usage[v].hidden_bytes, before.usage[v].hidden_bytes) << Story();
        ASSERT_EQ(state.usage[v].active_bytes, before.usage[v].active_bytes) << Story();
        ASSERT_EQ(state.usage[v].history_bytes, before.usage[v].history_bytes) << Story();
      }
    }
    ASSERT_EQ(state.committed_epoch, Epoch(epochs_)) << Story();
    ASSERT_FALSE(state.incomplete);
    Compare();
  }

  StoreFixture fixture_;
  Model model_;
  uint64_t epochs_ = 0;
  uint64_t cold_reads_ = 0;  // before the last reopening
  std::string story_;
};

class ReplicaModelTest : public ::testing::TestWithParam<Variant> {};

TEST_P(ReplicaModelTest, EveryViewIsTheModelsThroughFailover) {
  const uint64_t seed = testing::TestSeed();
  uint64_t cold_reads = 0;
  for (uint64_t round = 0; round < 4; ++round) {
    Driver driver(seed + round, GetParam());
    for (int step = 0; step < 150 && !::testing::Test::HasFailure(); ++step) driver.Step();
    if (::testing::Test::HasFailure()) return;
    driver.Compare();
    driver.FailoverAndFinish();
    if (::testing::Test::HasFailure()) return;
    cold_reads += driver.ColdReads();
  }
  if (GetParam().index_memory_max < 1 << 20) {
    EXPECT_GT(cold_reads, 500u);
  }
}

TEST_P(ReplicaModelTest, StopAppliesTheLastCheckpoint) {
  const uint64_t seed = testing::TestSeed();
  for (uint64_t round = 0; round < 4; ++round) {
    Driver driver(seed + round, GetParam());
    for (int step = 0; step < 60 && !::testing::Test::HasFailure(); ++step) driver.Step();
    driver.StopAndFinish();
    if (::testing::Test::HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Variants, ReplicaModelTest,
    ::testing::Values(Variant{.name = "checkpoint"}, Variant{.name = "none", .durable = false},
                      Variant{.name = "cold", .index_memory_max = 64, .history_epochs = 8},
                      Variant{.name = "cold_none",
                              .durable = false,
                              .index_memory_max = 64,
                              .history_epochs = 64},
                      Variant{.name = "small", .index_memory_max = 8 << 10, .history_epochs = 64}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace understudy::storage::replica_model_test
