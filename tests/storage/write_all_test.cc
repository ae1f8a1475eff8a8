// Many writes of the secondary VM at once, and its flushes that have nothing to do.
#include <atomic>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/storage/store_fixture.h"

namespace understudy::storage::write_all_test {
namespace {

using ::testing::Each;
using testing::FileOperation;

constexpr uint64_t kDiskBytes = 4 << 20;

class WriteAllTest : public ::testing::Test {
 protected:
  WriteAllTest() : view_(f_.initial(0)) {}
  ~WriteAllTest() override {
    f_.files().SetHook(nullptr);
    f_.CloseStore();
  }
  void Begin() {
    ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
    ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  }
  void FailOver() { ASSERT_EQ(f_.replica().Failover({}), absl::OkStatus()); }
  void AwaitJobs() {
    ASSERT_EQ(f_.replica().WaitForJobs(base::Deadline::Never()), absl::OkStatus());
  }
  // What is to be written, and seen from then on.
  void Add(uint64_t offset, size_t bytes, bool fua = false) {
    data_.push_back(std::make_unique<std::string>(f_.Bytes(bytes)));
    writes_.push_back({.offset = offset, .data = *data_.back(), .fua = fua});
    if (offset < kDiskBytes) view_.replace(offset, bytes, *data_.back());
  }
  std::vector<absl::Status> WriteAll() {
    std::vector<absl::Status> results(writes_.size());
    f_.replica().WriteAll(VolumeId(0), writes_, results);
    writes_.clear();
    return results;
  }
  absl::Status Flush() { return f_.replica().Flush(VolumeId(0)); }
  // Counts operations of that kind on files whose path ends so; each ends with `answer`.
  void Count(FileOperation counted, std::string suffix,
             const absl::Status& answer = absl::OkStatus()) {
    count_ = 0;
    f_.files().SetHook(
        [=, this, suffix = std::move(suffix)](FileOperation operation, const std::string& path) {
          if (operation != counted || !absl::EndsWith(path, suffix)) return absl::OkStatus();
          ++count_;
          return answer;
        });
  }

  StoreFixture f_{1, 1, kDiskBytes};
  std::string view_;
  std::vector<std::unique_ptr<std::string>> data_;
  std::vector<BlockWrite> writes_;
  std::atomic<int> count_ = 0;
};

TEST_F(WriteAllTest, SmallWritesOfABatchAreOneFrame) {
  Begin();
  Add(0, 512);
  EXPECT_THAT(WriteAll(), Each(absl::OkStatus()));  // takes a segment
  Count(FileOperation::kWrite, ".seg");
  for (uint64_t i = 0; i < 64; ++i) Add(i * 16384, 4096);
  Add(100 * 4096 + 512, 1024);
  Add(100 * 4096, 1024);  // over a half of the one before
  EXPECT_THAT(WriteAll(), Each(absl::OkStatus()));
  EXPECT_EQ(count_, 1);
  f_.files().SetHook(nullptr);
  EXPECT_TRUE(f_.View(0) == view_);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  EXPECT_TRUE(f_.View(0) == view_);
}

TEST_F(WriteAllTest, EachHasItsOwnResultAndLargeOnesTakeSeveralFrames) {
  Begin();
  Add(0, 4096);
  Add(kDiskBytes, 512);                // ends past the disk
  Add(1 << 20, (2 << 20) + 512);       // three frames
  Add((1 << 20) + 4096, 4096, false);  // in any order, but never torn
  const std::string other = view_;
  std::vector<absl::Status> results = WriteAll();
  EXPECT_EQ(results[1].code(), absl::StatusCode::kOutOfRange);
  results.erase(results.begin() + 1);
  EXPECT_THAT(results, Each(absl::OkStatus()));
  std::string either = other;
  either.replace((1 << 20) + 4096, 4096, data_[2]->substr(4096, 4096));
  EXPECT_TRUE(f_.View(0) == other || f_.View(0) == either);
  std::vector<absl::Status> wrong(1);
  f_.replica().WriteAll(VolumeId(7), std::vector<BlockWrite>{{.offset = 0, .data = *data_[0]}},
                        wrong);
  EXPECT_FALSE(wrong[0].ok());
}

TEST_F(WriteAllTest, OneFlushIsForAllOfABatch) {
  Begin();
  FailOver();
  AwaitJobs();
  ASSERT_EQ(f_.replica().state().stage, Stage::kDone);
  Count(FileOperation::kSync, "/disk0.img");
  for (uint64_t i = 0; i < 8; ++i) Add(i * 65536, 4096, /*fua=*/i % 2 == 0);
  EXPECT_THAT(WriteAll(), Each(absl::OkStatus()));
  EXPECT_EQ(count_, 1);
  EXPECT_TRUE(f_.RawDisk(0) == view_);
  EXPECT_EQ(Flush(), absl::OkStatus());
  EXPECT_EQ(count_, 1) << "the FUA has covered it";
}

// Each region must be in the failback map before its first byte changes; that costs a synced batch
// of the index.
TEST_F(WriteAllTest, ABatchIsMarkedForTheWayBackAtOnce) {
  Begin();
  FailOver();
  AwaitJobs();
  Count(FileOperation::kWrite, "/SYNCED");  // written behind each synced batch
  for (const uint64_t region : {40, 3, 22, 9, 57, 31}) Add(region * 65536, 4096);
  EXPECT_THAT(WriteAll(), Each(absl::OkStatus()));
  EXPECT_EQ(count_, 1);
  EXPECT_EQ(f_.replica().Failback()->runs[0].size(), 6u);
}

TEST_F(WriteAllTest, AFlushWithNothingNewIsNoSync) {
  Begin();
  Add(0, 4096);
  EXPECT_THAT(WriteAll(), Each(absl::OkStatus()));
  EXPECT_EQ(Flush(), absl::OkStatus());
  FailOver();
  AwaitJobs();
  Count(FileOperation::kSync, "/disk0.img");
  EXPECT_EQ(Flush(), absl::OkStatus());
  EXPECT_EQ(count_, 0) << "flushed before, and the job has synced what it moved";
  EXPECT_TRUE(f_.RawDisk(0) == view_);
  const std::string block = f_.Bytes(512);
  for (int round = 1; round <= 2; ++round) {
    ASSERT_EQ(f_.replica().Write(VolumeId(0), 0, block, false), absl::OkStatus());
    EXPECT_EQ(Flush(), absl::OkStatus());
    EXPECT_EQ(Flush(), absl::OkStatus());
    EXPECT_EQ(count_, round);
  }
  ASSERT_EQ(f_.replica().WriteZeroes(VolumeId(0), {0, 4096}, ZeroedSpace::kKept, /*fua=*/true),
            absl::OkStatus());
  EXPECT_EQ(count_, 3);
  // Of a new process the first one is real.
  f_.files().SetHook(nullptr);
  ASSERT_EQ(f_.CrashAndOpen(), absl::OkStatus());
  Count(FileOperation::kSync, "/disk0.img");
  EXPECT_EQ(Flush(), absl::OkStatus());
  EXPECT_EQ(Flush(), absl::OkStatus());
  EXPECT_EQ(count_, 1);
}

TEST_F(WriteAllTest, AFlushThatFailedMakesNoLaterOneSucceed) {
  Begin();
  EXPECT_EQ(Flush(), absl::OkStatus());
  FailOver();
  AwaitJobs();
  Add(0, 4096);
  EXPECT_THAT(WriteAll(), Each(absl::OkStatus()));
  Count(FileOperation::kSync, "/disk0.img", absl::InternalError("injected"));
  EXPECT_FALSE(Flush().ok());
  f_.files().SetHook(nullptr);
  EXPECT_FALSE(Flush().ok()) << "what the kernel has lost it says only once";
  Add(0, 4096);
  EXPECT_THAT(WriteAll(), Each(absl::OkStatus()));
  EXPECT_FALSE(Flush().ok());
}

TEST_F(WriteAllTest, NothingIsFlushedOutsideOfItsStages) {
  ASSERT_EQ(f_.OpenStore(), absl::OkStatus());
  EXPECT_EQ(Flush().code(), absl::StatusCode::kFailedPrecondition);
  ASSERT_EQ(f_.StartAndAttach(), absl::OkStatus());
  EXPECT_EQ(Flush(), absl::OkStatus());
  EXPECT_EQ(f_.replica().Flush(VolumeId(7)).code(), absl::StatusCode::kInvalidArgument);
}

// Batches whose ranges overlap each other's, in any order, while the stages go by below them.
TEST_F(WriteAllTest, BatchesBesideAFailoverAndItsJobLoseNothing) {
  Begin();
  std::vector<std::thread> threads;
  std::atomic<int> rounds = 0;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      std::vector<std::string> data;
      for (char byte = 0; byte < 8; ++byte) {
        data.emplace_back(4096, static_cast<char>('a' + seed * 4 + static_cast<unsigned>(byte)));
      }
      for (int round = 0; round < 60; ++round) {
        std::vector<BlockWrite> writes;
        for (const std::string& block : data) {
          writes.push_back({.offset = random() % 64 * 4096, .data = block, .fua = round % 16 == 0});
        }
        // Its own alone, of which the last survives.
        const uint64_t own = (512 + seed * 8) * 4096;
        writes.push_back({.offset = own, .data = data[static_cast<size_t>(round) % 8]});
        std::vector<absl::Status> results(writes.size());
        f_.replica().WriteAll(VolumeId(0), writes, results);
        EXPECT_THAT(results, Each(absl::OkStatus()));
        std::string found(4096, '\0');
        EXPECT_EQ(f_.replica().Read(VolumeId(0), own, found), absl::OkStatus());
        EXPECT_TRUE(found == data[static_cast<size_t>(round) % 8]);
        ++rounds;
      }
    });
  }
  while (rounds < 60) std::this_thread::yield();
  FailOver();
  for (std::thread& thread : threads) thread.join();
  AwaitJobs();
  EXPECT_EQ(f_.replica().state().stage, Stage::kDone);
  const std::string view = f_.View(0);
  EXPECT_TRUE(f_.RawDisk(0) == view);
  for (uint64_t block = 0; block < 64; ++block) {
    const std::string found = view.substr(block * 4096, 4096);
    const bool whole = found == std::string(4096, found[0]);
    EXPECT_TRUE(whole || found == view_.substr(block * 4096, 4096)) << block;
  }
}

}  // namespace
}  // namespace understudy::storage::write_all_test
