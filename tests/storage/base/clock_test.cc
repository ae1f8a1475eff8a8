#include "storage/base/clock.h"

#include <string>

#include <gtest/gtest.h>

#include "tests/testing/scripted_clock.h"

namespace understudy::base::clock_test {
namespace {

TEST(ClockTest, TheKernelSaysWhichBootItIsAndForHowLongItHasRun) {
  const BootTime earlier = Clock::Real().SinceBoot();
  const BootTime later = Clock::Real().SinceBoot();
  EXPECT_EQ(earlier.boot_id.size(), std::string("01234567-89ab-cdef-0123-456789abcdef").size());
  EXPECT_EQ(earlier.boot_id, later.boot_id);
  EXPECT_GT(earlier.since_boot, absl::ZeroDuration());
  EXPECT_GE(BootTime::Between(earlier, later), absl::ZeroDuration());
  EXPECT_LT(BootTime::Between(earlier, later), absl::Hours(1));
}

TEST(ClockTest, NobodyKnowsHowLongAgoItWasInAnotherBoot) {
  testing::ScriptedClock clock;
  const BootTime before = clock.SinceBoot();
  clock.Jump(-absl::Hours(1));
  clock.Advance(absl::Seconds(3));
  EXPECT_EQ(BootTime::Between(before, clock.SinceBoot()), absl::Seconds(3));
  clock.Reboot();
  EXPECT_EQ(BootTime::Between(before, clock.SinceBoot()), absl::InfiniteDuration());
  EXPECT_EQ(BootTime::Between({}, {}), absl::InfiniteDuration());
}

TEST(ClockTest, WhatAnEarlierProcessRecordedIsOnTheSteadyClockAndNotInTheFuture) {
  testing::ScriptedClock clock;
  EXPECT_EQ(clock.MonotonicOf(clock.Now() - absl::Hours(2)), clock.Monotonic() - absl::Hours(2));
  EXPECT_EQ(clock.MonotonicOf(clock.Now() + absl::Hours(2)), clock.Monotonic());
}

TEST(ClockTest, AMomentOfTheSteadyClockHasTheTimeThatTheWallClockNowGivesIt) {
  testing::ScriptedClock clock;
  const absl::Duration moment = clock.Monotonic();
  clock.Advance(absl::Seconds(5));
  EXPECT_EQ(clock.TimeOf(moment), clock.Now() - absl::Seconds(5));
  clock.Jump(absl::Hours(1));
  EXPECT_EQ(clock.TimeOf(moment), clock.Now() - absl::Seconds(5));
}

}  // namespace
}  // namespace understudy::base::clock_test
