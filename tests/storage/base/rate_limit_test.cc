#include "storage/base/rate_limit.h"

#include <gtest/gtest.h>

namespace understudy::base::rate_limit_test {
namespace {

constexpr absl::Duration kStart = absl::Hours(1);

TEST(RateLimitTest, NoLimitGrantsEverythingAtOnce) {
  RateLimit limit(0);
  EXPECT_EQ(limit.Take(1ULL << 60, kStart), absl::ZeroDuration());
  EXPECT_EQ(limit.Take(1ULL << 60, kStart), absl::ZeroDuration());
  EXPECT_EQ(limit.StepBytes(1, 4096), 4096u);
}

TEST(RateLimitTest, ARequestIsGrantedWholeAndTheNextOneWaitsForIt) {
  RateLimit limit(1000);
  EXPECT_EQ(limit.Take(5000, kStart), absl::ZeroDuration());
  const absl::Duration wait = limit.Take(1, kStart);
  EXPECT_EQ(wait, absl::Milliseconds(4900));
  EXPECT_GT(limit.Take(1, kStart + wait - absl::Milliseconds(1)), absl::ZeroDuration());
  EXPECT_EQ(limit.Take(1, kStart + wait), absl::ZeroDuration());
}

TEST(RateLimitTest, OverAnyTimeNoMoreThanTheRateIsGranted) {
  RateLimit limit(1 << 20);
  uint64_t granted = 0;
  absl::Duration now = kStart;
  for (int i = 0; i < 100000; ++i) {  // ten seconds in steps of a tenth of a millisecond
    if (limit.Take(4096, now) == absl::ZeroDuration()) granted += 4096;
    now += absl::Microseconds(100);
  }
  EXPECT_LE(granted, uint64_t{10 << 20} + (1 << 20) / 10 + 4096);
  EXPECT_GE(granted, uint64_t{10 << 20} - 4096);
}

TEST(RateLimitTest, IdleTimeIsNotSaved) {
  RateLimit limit(1000);
  EXPECT_EQ(limit.Take(1, kStart), absl::ZeroDuration());
  int granted = 0;
  while (limit.Take(10, kStart + absl::Hours(1)) == absl::ZeroDuration()) ++granted;
  EXPECT_LE(granted, 11);  // a tenth of a second's worth, and one
}

TEST(RateLimitTest, WhatCouldNotWaitIsPaidByTheNext) {
  RateLimit limit(1000);
  limit.Charge(2000, kStart);
  limit.Charge(1000, kStart);
  EXPECT_EQ(limit.Take(1, kStart), absl::Milliseconds(2900));
}

TEST(RateLimitTest, StepsAreAQuarterOfASecond) {
  EXPECT_EQ(RateLimit(400000).StepBytes(1, 4 << 20), 100000u);
  EXPECT_EQ(RateLimit(400).StepBytes(4096, 4 << 20), 4096u);
  EXPECT_EQ(RateLimit(1 << 30).StepBytes(4096, 4 << 20), uint64_t{4 << 20});
}

}  // namespace
}  // namespace understudy::base::rate_limit_test
