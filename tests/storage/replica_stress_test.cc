// Everything at once: a primary stream with checkpoints, a VM that reads and writes, state() and Map() callers, then a failover
// under load; once with next to no memory for extents and many epochs kept. Under ThreadSanitizer it looks for races; the bytes
// are checked in every build.
#include <atomic>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"
#include "tests/testing/seed.h"

namespace understudy::storage::replica_stress_test {
namespace {

constexpr uint64_t kVolumeBytes = 2 << 20;
constexpr uint64_t kStampBytes = 4096;

// Block contents that tell who wrote them and when.
std::string Stamp(uint64_t value) {
  std::string block(kStampBytes, '\0');
  for (size_t at = 0; at < block.size(); at += sizeof(value))
    std::memcpy(block.data() + at, &value, sizeof(value));
  return block;
}
// The stamp of a block; fails the test when the block is torn.
uint64_t StampOf(const std::string& block) {
  uint64_t value = 0;
  std::memcpy(&value, block.data(), sizeof(value));
  EXPECT_TRUE(block == Stamp(value)) << "torn block";
  return value;
}

class ReplicaStressTest : public ::testing::TestWithParam<bool> {
 protected:
  static void SetLittleMemory(StoreOptions* options) {
    options->index_memory_max = 64;
    options->index_batch_delay = absl::Milliseconds(1);
    options->history_epochs = 16;
  }
};

TEST_P(ReplicaStressTest, ReadersNeverSeeATornOrHiddenBlockAndAFailoverLosesNothing) {
  StoreFixture f(testing::TestSeed(), 1, kVolumeBytes);
  if (GetParam()) SetLittleMemory(&f.options());
  ASSERT_TRUE(
      base::FileSystem::Posix()
          .WriteFileAtomically(f.spec().volumes[0].disk_path, std::string(kVolumeBytes, '\0'))
          .ok());
  f.options().checkpoint_durable = false;
  ASSERT_EQ(f.OpenStore(), absl::OkStatus());
  ASSERT_EQ(f.StartAndAttach(), absl::OkStatus());
  // The primary writes stamp n to the first and then to the last block; the VM owns the middle.
  const uint64_t last = kVolumeBytes - kStampBytes;
  std::atomic<bool> stop = false;
  std::atomic<uint64_t> committed = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      std::string block(kStampBytes, '?');
      uint64_t seen = 0;
      while (!stop) {
        const uint64_t at_least = committed.load();
        ASSERT_EQ(f.replica().Read(VolumeId(0), 0, std::span(block.data(), block.size())),
                  absl::OkStatus());
        const uint64_t first = StampOf(block);
        EXPECT_GE(first, at_least);
        EXPECT_GE(first, seen);
        seen = first;
      }
    });
  }
  std::vector<std::string> vm(2);
  for (size_t i = 0; i < vm.size(); ++i) {
    threads.emplace_back([&, i] {
      for (uint64_t n = 1; !stop; ++n) {
        vm[i] = Stamp(n << 8 | i);
        const uint64_t offset = (1 << 20) + i * kStampBytes;
        ASSERT_EQ(f.replica().Write(VolumeId(0), offset, vm[i], n % 64 == 0), absl::OkStatus());
      }
    });
  }
  threads.emplace_back([&] {
    while (!stop) {
      f.replica().state();
      ASSERT_TRUE(f.replica().Map(VolumeId(0), {0, kVolumeBytes}, 512).ok());
    }
  });
  for (uint64_t n = 1; n <= 200; ++n) {
    ASSERT_EQ(f.PrimaryWrite(0, 0, Stamp(n)), absl::OkStatus());
    ASSERT_EQ(f.PrimaryWrite(0, last, Stamp(n)), absl::OkStatus());
    if (n % 4 != 0) continue;
    ASSERT_EQ(f.MarkedCheckpoint().status(), absl::OkStatus());
    committed = n;
  }
  ASSERT_EQ(f.PrimaryWrite(0, 0, Stamp(999)), absl::OkStatus());  // never committed
  ASSERT_EQ(f.replica().Failover({}), absl::OkStatus());
  ASSERT_EQ(f.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  EXPECT_EQ(f.replica().state().stage, Stage::kDone);
  for (int i = 0; i < 200; ++i) std::this_thread::yield();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  const std::string raw = f.RawDisk(0);
  EXPECT_EQ(StampOf(raw.substr(0, kStampBytes)), 200u);
  EXPECT_EQ(StampOf(raw.substr(last, kStampBytes)), 200u);
  for (size_t i = 0; i < vm.size(); ++i) {
    EXPECT_TRUE(raw.substr((1 << 20) + i * kStampBytes, kStampBytes) == vm[i]) << "VM writer " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Memory, ReplicaStressTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "cold" : "plenty"; });

}  // namespace
}  // namespace understudy::storage::replica_stress_test
