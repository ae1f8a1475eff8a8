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

TEST(RangeLockTest, NoByteIsEverHeldTwice) {
  RangeLock lock;
  std::vector<std::atomic<int>> holders(64);
  std::atomic<int> conflicts{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&, seed] {
      std::mt19937 random(seed);
      for (int i = 0; i < 2000; ++i) {
        const size_t start = random() % 60;
        const size_t end = start + 1 + random() % 4;
        Hold hold(lock, {start, end});
        for (size_t byte = start; byte < end; ++byte) conflicts += holders[byte].fetch_add(1);
        for (size_t byte = start; byte < end; ++byte) holders[byte].fetch_sub(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(conflicts, 0);
}

}  // namespace
}  // namespace understudy::base::range_lock_test
