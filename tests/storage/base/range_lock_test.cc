#include "storage/base/range_lock.h"

#include <atomic>
#include <future>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace understudy::base::range_lock_test {
namespace {

using Hold = RangeLock::Hold;

bool Finishes(std::future<void>& future, int milliseconds) {
  return future.wait_for(std::chrono::milliseconds(milliseconds)) == std::future_status::ready;
}

TEST(RangeLockTest, RangesThatDoNotOverlapDoNotWait) {
  RangeLock lock;
  Hold first(lock, {0, 4096});
  auto other = std::async(std::launch::async, [&] { Hold second(lock, {4096, 8192}); });
  EXPECT_TRUE(Finishes(other, 10'000));
}

TEST(RangeLockTest, AnOverlapWaitsUntilTheHolderIsGone) {
  RangeLock lock;
  auto first = std::make_unique<Hold>(lock, ByteRange{0, 4096});
  auto other = std::async(std::launch::async, [&] { Hold second(lock, {2048, 6144}); });
  EXPECT_FALSE(Finishes(other, 50));
  first.reset();
  EXPECT_TRUE(Finishes(other, 10'000));
}

// A small request between two big ones must not overtake the one that asked before it: else a stream of small writes
// could keep a copy job's window waiting for ever.
TEST(RangeLockTest, AWaiterIsNotOvertakenByOneThatOverlapsItAndCameLater) {
  RangeLock lock;
  auto holder = std::make_unique<Hold>(lock, ByteRange{0, 1024});
  std::promise<void> release;
  std::promise<void> got_second;
  std::thread second([&] {
    Hold hold(lock, {512, 4096});
    got_second.set_value();
    release.get_future().wait();
  });
  // Once a probe of the second one's own bytes waits, it stands in the queue.
  std::future<void> third;
  while (true) {
    third = std::async(std::launch::async, [&] { Hold hold(lock, {2048, 3072}); });
    if (!Finishes(third, 500)) break;
  }
  holder.reset();
  got_second.get_future().wait();
  EXPECT_FALSE(Finishes(third, 50));
  release.set_value();
  second.join();
  EXPECT_TRUE(Finishes(third, 10'000));
}

TEST(RangeLockTest, SeveralRangesAreHeldAsOne) {
  RangeLock lock;
  // The second overlaps the first.
  const std::vector<ByteRange> ranges = {{4096, 8192}, {4096, 4608}, {0, 512}};
  auto several = std::make_unique<Hold>(lock, ranges);
  auto between = std::async(std::launch::async, [&] { Hold hold(lock, {512, 4096}); });
  EXPECT_TRUE(Finishes(between, 10'000)) << "what lies between them is free";
  auto last = std::async(std::launch::async, [&] { Hold hold(lock, {0, 1024}); });
  EXPECT_FALSE(Finishes(last, 50));
  several.reset();
  EXPECT_TRUE(Finishes(last, 10'000));
}

// Taken one by one, each would wait for the other's first range.
TEST(RangeLockTest, RangesThatAreAskedForInOppositeOrderEndInNoDeadlock) {
  RangeLock lock;
  std::vector<std::future<void>> done;
  for (const std::vector<ByteRange>& ranges :
       {std::vector<ByteRange>{{0, 512}, {512, 1024}}, {{512, 1024}, {0, 512}}}) {
    done.push_back(std::async(std::launch::async, [&lock, ranges] {
      for (int i = 0; i < 20'000; ++i) Hold hold(lock, ranges);
    }));
  }
  for (std::future<void>& future : done) ASSERT_TRUE(Finishes(future, 60'000));
}

TEST(RangeLockTest, NoByteIsEverHeldTwice) {
  RangeLock lock;
  std::vector<std::atomic<int>> holders(64);
  std::atomic<int> conflicts{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 2000; ++i) {
        // One to three, apart from each other.
        std::vector<ByteRange> ranges;
        for (size_t from = 0; ranges.size() < 1 + seed % 3; from += 20) {
          const size_t start = from + random() % 16;
          ranges.push_back({start, start + 1 + random() % 4});
        }
        Hold hold(lock, ranges);
        for (const ByteRange& range : ranges) {
          for (size_t byte = range.start; byte < range.end; ++byte) {
            conflicts += holders[byte].fetch_add(1);
          }
        }
        for (const ByteRange& range : ranges) {
          for (size_t byte = range.start; byte < range.end; ++byte) holders[byte].fetch_sub(1);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(conflicts, 0);
}

}  // namespace
}  // namespace understudy::base::range_lock_test
