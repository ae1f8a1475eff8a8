#include "storage/base/deadline.h"

#include <atomic>
#include <thread>

#include <gtest/gtest.h>

namespace understudy::base::deadline_test {
namespace {

TEST(DeadlineTest, AWaitEndsWhenTheTimeIsUp) {
  Mutex mutex;
  CondVar never;
  const absl::Duration begun = Clock::Real().Monotonic();
  const Deadline deadline = Deadline::After(absl::Milliseconds(20));
  MutexLock lock(mutex);
  while (deadline.Wait(never, mutex)) {
  }
  EXPECT_TRUE(deadline.over());
  EXPECT_GE(Clock::Real().Monotonic() - begun, absl::Milliseconds(20));
  EXPECT_EQ(deadline.Passed("late").code(), absl::StatusCode::kDeadlineExceeded);
}

TEST(DeadlineTest, AWaitEndsSoonAfterTheCallerHasGone) {
  Mutex mutex;
  CondVar never;
  std::atomic<bool> gone = false;
  const Deadline deadline = Deadline::After(absl::Hours(1), [&] { return gone.load(); });
  std::thread caller([&] {
    absl::SleepFor(absl::Milliseconds(20));
    gone = true;
  });
  const absl::Time begun = absl::Now();
  {
    MutexLock lock(mutex);
    while (deadline.Wait(never, mutex)) {
    }
  }
  caller.join();
  EXPECT_LT(absl::Now() - begun, absl::Seconds(20));
  EXPECT_EQ(deadline.Passed("nobody is there").code(), absl::StatusCode::kCancelled);
}

TEST(DeadlineTest, AWakeUpIsTold) {
  Mutex mutex;
  CondVar condition;
  bool done = false;
  std::thread other([&] {
    MutexLock lock(mutex);
    done = true;
    condition.NotifyAll();
  });
  for (const Deadline& deadline : {Deadline::Never(), Deadline::After(absl::Hours(1))}) {
    MutexLock lock(mutex);
    while (!done) {
      EXPECT_TRUE(deadline.Wait(condition, mutex));
    }
  }
  other.join();
}

}  // namespace
}  // namespace understudy::base::deadline_test
