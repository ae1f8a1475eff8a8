// How many threads there are at most.
#include "proto/nbd/crew.h"

#include <future>

#include <gtest/gtest.h>

namespace understudy::nbd::crew_test {
namespace {

TEST(CrewTest, BeyondItsThreadsATaskIsRefused) {
  Crew crew(2);
  std::promise<void> release;
  const auto released = release.get_future().share();
  std::promise<void> ended;
  EXPECT_TRUE(crew.Run([released] { released.wait(); }));
  EXPECT_TRUE(crew.Run([released] { released.wait(); }));
  EXPECT_FALSE(crew.Run([] { FAIL() << "nobody is there to run it"; }));
  release.set_value();
  // Once one is idle, it takes the next task.
  while (!crew.Run([&ended] { ended.set_value(); })) std::this_thread::yield();
  ended.get_future().wait();
}

TEST(CrewTest, TheSystemsLimitIsAskedFor) {
  EXPECT_GT(Crew::ThreadsMax(), 0u);
  EXPECT_LE(Crew::ThreadsMax(), 12'000u);
}

}  // namespace
}  // namespace understudy::nbd::crew_test
