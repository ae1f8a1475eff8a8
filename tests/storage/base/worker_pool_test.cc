#include "storage/base/worker_pool.h"

#include <atomic>
#include <future>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

namespace understudy::base::worker_pool_test {
namespace {

TEST(WorkerPoolTest, OneThreadRunsTasksInTheirOrder) {
  std::vector<int> order;
  std::promise<void> last;
  WorkerPool pool("test", 1);
  for (int i = 0; i < 100; ++i) pool.Submit([&order, i] { order.push_back(i); });
  pool.Submit([&] { last.set_value(); });
  last.get_future().wait();
  ASSERT_EQ(order.size(), 100u);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(order[static_cast<size_t>(i)], i);
}

// Each task waits for all others to have begun: with one thread too few this would hang.
TEST(WorkerPoolTest, TasksThatBlockGetAThreadEachUpToTheBound) {
  WorkerPool pool("test", 4);
  std::atomic<int> begun{0};
  std::promise<void> all;
  std::shared_future<void> all_begun(all.get_future());
  std::vector<std::future<void>> done;
  for (int i = 0; i < 4; ++i) {
    auto task = std::make_shared<std::promise<void>>();
    done.push_back(task->get_future());
    pool.Submit([&, all_begun, task] {
      if (++begun == 4) all.set_value();
      all_begun.wait();
      task->set_value();
    });
  }
  for (std::future<void>& future : done) {
    ASSERT_EQ(future.wait_for(std::chrono::seconds(30)), std::future_status::ready);
  }
}

TEST(WorkerPoolTest, ADelayedTaskWaitsForItsTimeAndDoesNotHoldOthersUp) {
  WorkerPool pool("test", 1);
  std::promise<void> delayed;
  std::promise<void> prompt;
  const auto start = std::chrono::steady_clock::now();
  pool.SubmitAfter(absl::Milliseconds(100), [&] { delayed.set_value(); });
  pool.Submit([&] { prompt.set_value(); });
  prompt.get_future().wait();
  delayed.get_future().wait();
  EXPECT_GE(std::chrono::steady_clock::now() - start, std::chrono::milliseconds(100));
}

TEST(WorkerPoolTest, ShutdownWaitsForTheRunningTaskAndDropsTheRest) {
  auto dropped = std::make_shared<int>(0);
  const std::weak_ptr<int> watch = dropped;
  std::atomic<bool> finished{false};
  std::promise<void> running;
  WorkerPool pool("test", 1);
  pool.Submit([&] {
    running.set_value();
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    finished = true;
  });
  pool.Submit([dropped] { ++*dropped; });
  pool.SubmitAfter(absl::Hours(1), [dropped] { ++*dropped; });
  running.get_future().wait();
  pool.Shutdown();
  EXPECT_TRUE(finished);
  EXPECT_EQ(*dropped, 0);
  dropped.reset();
  EXPECT_TRUE(watch.expired()) << "what a dropped task owns is destroyed";
  pool.Submit([] { FAIL() << "submitted after shutdown"; });
  pool.Shutdown();
}

}  // namespace
}  // namespace understudy::base::worker_pool_test
