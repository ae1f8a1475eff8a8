// An overlay of many small extents with little memory for them: it stays within the budget, and every byte is still right, also
// after a recovery, which loads none of them.
#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"

namespace understudy::storage::extent_memory_test {
namespace {

constexpr uint64_t kVolumeBytes = 64 << 20;
constexpr uint64_t kIndexMemoryMax = 256 << 10;
constexpr uint64_t kExtentShare = kIndexMemoryMax / 8 * 5;

class ExtentMemoryTest : public ::testing::Test {
 protected:
  // `frames` frames of 64 writes of a sector each, all over one region of the volume; returns the most memory that was seen.
  uint64_t WriteScattered(int frames) {
    uint64_t most = 0;
    for (int i = 0; i < frames; ++i) {
      const uint64_t region = f_.random()() % (kVolumeBytes >> 20) << 20;
      std::vector<Operation> operations;
      const std::string payload = f_.Bytes(64 * kSectorBytes);
      for (uint64_t n = 0; n < 64; ++n) {
        const uint64_t offset = region + f_.random()() % 2048 * kSectorBytes;
        operations.push_back(
            {.kind = OperationKind::kData, .offset = offset, .length = kSectorBytes});
        primary_.replace(offset, kSectorBytes, payload, n * kSectorBytes, kSectorBytes);
      }
      EXPECT_EQ(f_.Append(operations, payload), absl::OkStatus());
      if (i % 4 != 3) continue;
      f_.replica().RequestDurablePoint();
      while (f_.replica().state().durable_sequence < f_.replica().state().received_sequence) {
        std::this_thread::yield();
      }
      most = std::max(most, f_.store().Space()->extent_memory_bytes);
    }
    return most;
  }
  void Open(uint64_t index_memory_max) {
    f_.options().index_memory_max = index_memory_max;
    f_.options().history_epochs = 4;  // so that nothing is applied
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
    primary_ = f_.initial(0);
  }

  StoreFixture f_{1, 1, kVolumeBytes};
  std::string primary_;
};

TEST_F(ExtentMemoryTest, WithoutALimitThisOverlayTakesManyTimesTheBudget) {
  Open(256 << 20);
  EXPECT_GT(WriteScattered(800), 4 * kExtentShare);
  EXPECT_EQ(f_.store().Space()->extent_cold_reads, 0u);
}

TEST_F(ExtentMemoryTest, AScatteredOverlayStaysWithinTheBudgetAndReadsBack) {
  Open(kIndexMemoryMax);
  EXPECT_EQ(f_.store().Space()->extent_memory_limit_bytes, kExtentShare);
  EXPECT_LE(WriteScattered(800), 2 * kExtentShare);
  EXPECT_GT(f_.store().Space()->extent_cold_reads, 100u);
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == primary_);
  EXPECT_LE(WriteScattered(200), 2 * kExtentShare);
  ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == primary_);
  f_.CloseStore();
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_EQ(f_.store().Space()->extent_cold_reads, 0u) << "recovery loads no extents";
  EXPECT_EQ(f_.store().Space()->extent_memory_bytes, 0u);
  EXPECT_TRUE(f_.View(0) == primary_);
  EXPECT_LE(f_.store().Space()->extent_memory_bytes, 2 * kExtentShare);
}

TEST_F(ExtentMemoryTest, BytesOfManyEpochsComeFromTheNewestThatHasThem) {
  f_.options().index_batch_delay = absl::Milliseconds(1);
  f_.options().history_epochs = 32;
  f_.options().index_memory_max = 64;
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  primary_ = f_.initial(0);
  for (int epoch = 0; epoch < 40; ++epoch) {
    WriteScattered(2);
    ASSERT_EQ(f_.Checkpoint().status(), absl::OkStatus());
    if (epoch % 4 == 3) {
      ASSERT_TRUE(f_.View(0) == primary_) << "epoch " << epoch;
    }
  }
  ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::After(absl::Seconds(30))), absl::OkStatus());
  EXPECT_EQ(f_.replica().state().history_epochs, 32u);
  EXPECT_TRUE(f_.View(0) == primary_);
}

}  // namespace
}  // namespace understudy::storage::extent_memory_test
