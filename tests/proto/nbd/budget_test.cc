// Whose turn it is for bytes, who gives up, and when room is looked for.
#include "proto/nbd/budget.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

namespace understudy::nbd::budget_test {
namespace {

bool Never() { return false; }

// Until `taker` waits: nobody sees it from outside, and too early makes no test fail.
void LetItWait() { absl::SleepFor(absl::Milliseconds(20)); }

TEST(BudgetTest, ASmallOneDoesNotOvertakeALargeOne) {
  Budget budget(100, [] {});
  ASSERT_TRUE(budget.Take(60, Never));
  base::Mutex mutex;
  std::string order;
  const auto take = [&](uint64_t bytes, char name) {
    return std::thread([&budget, &mutex, &order, bytes, name] {
      EXPECT_TRUE(budget.Take(bytes, Never));
      base::MutexLock lock(mutex);
      order += name;
    });
  };
  std::thread large = take(80, 'l');
  LetItWait();
  std::thread small = take(20, 's');
  LetItWait();
  {
    base::MutexLock lock(mutex);
    EXPECT_EQ(order, "") << "there is room for the small one, but it is not its turn";
  }
  budget.Give(60);
  large.join();
  small.join();
  budget.Give(80);
  budget.Give(20);
  EXPECT_TRUE(budget.Take(100, Never)) << "nothing is lost";
}

TEST(BudgetTest, WhoGivesUpLetsTheNextOneIn) {
  Budget budget(100, [] {});
  ASSERT_TRUE(budget.Take(60, Never));
  std::atomic<bool> given_up{false};
  std::thread large(
      [&] { EXPECT_FALSE(budget.Take(80, [&given_up] { return given_up.load(); })); });
  LetItWait();
  std::thread small([&] { EXPECT_TRUE(budget.Take(20, Never)); });
  LetItWait();
  given_up = true;
  budget.Wake();
  large.join();
  small.join();
  budget.Give(80);
  EXPECT_TRUE(budget.Take(100, Never)) << "what was not taken is not given back";
}

TEST(BudgetTest, RoomIsLookedForThoughOthersComeAndGo) {
  std::atomic<int> looks{0};
  Budget budget(100, [&looks] { ++looks; });
  ASSERT_TRUE(budget.Take(70, Never));
  ASSERT_TRUE(budget.Take(30, Never));
  std::thread waiter([&] { EXPECT_TRUE(budget.Take(50, Never)); });
  // All the time somebody gives a little and wakes it up.
  uint64_t given = 0;
  while (looks == 0) {
    absl::SleepFor(absl::Milliseconds(10));
    if (given < 19) {
      budget.Give(1);
      ++given;
    } else {
      budget.Wake();
    }
  }
  EXPECT_EQ(looks, 1);
  budget.Give(100 - given);
  waiter.join();
  EXPECT_TRUE(budget.Take(50, Never));
}

TEST(BudgetDeathTest, MoreIsNotGivenBackThanIsHeld) {
  Budget budget(100, [] {});
  ASSERT_TRUE(budget.Take(10, Never));
  EXPECT_DEATH(budget.Give(11), "10 held, 11 given back");
}

}  // namespace
}  // namespace understudy::nbd::budget_test
