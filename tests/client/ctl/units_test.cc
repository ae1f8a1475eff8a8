#include "client/ctl/units.h"

#include <gtest/gtest.h>

namespace understudy::ctl::units_test {
namespace {

TEST(ParseBytesTest, SuffixesArePowersOf1024) {
  EXPECT_EQ(*ParseBytes("0"), 0u);
  EXPECT_EQ(*ParseBytes("4096"), 4096u);
  EXPECT_EQ(*ParseBytes("64K"), 65536u);
  EXPECT_EQ(*ParseBytes("3m"), 3u << 20);
  EXPECT_EQ(*ParseBytes("10G"), 10ull << 30);
  EXPECT_EQ(*ParseBytes("2T"), 2ull << 40);
  EXPECT_EQ(*ParseBytes("18446744073709551615"), 18446744073709551615ull);
}

TEST(ParseBytesTest, WhatIsNoWholeNumberOrTooBigIsRefused) {
  for (const char* text : {"", "K", "1.5G", "-1", "+1", " 1", "1 ", "1X", "1KK", "1KiB", "0x10",
                           "18446744073709551616", "18014398509481984K"}) {
    EXPECT_EQ(ParseBytes(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(ParseTimeoutTest, DurationsArePositiveAndHaveAUnit) {
  EXPECT_EQ(*ParseTimeout("10s"), absl::Seconds(10));
  EXPECT_EQ(*ParseTimeout("1m30s"), absl::Seconds(90));
  EXPECT_EQ(*ParseTimeout("1.5s"), absl::Milliseconds(1500));
  for (const char* text : {"", "10", "0s", "-1s", "s", "ten", "inf", "25h"}) {
    EXPECT_FALSE(ParseTimeout(text).ok()) << text;
  }
}

TEST(HumanTest, BytesKeepOneDigitAndChooseTheirUnit) {
  EXPECT_EQ(HumanBytes(0), "0 B");
  EXPECT_EQ(HumanBytes(1023), "1023 B");
  EXPECT_EQ(HumanBytes(1024), "1 KiB");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes((1 << 20) - 1), "1 MiB");
  EXPECT_EQ(HumanBytes(10ull << 30), "10 GiB");
  EXPECT_EQ(HumanBytes(~0ull), "16 EiB");
}

TEST(HumanTest, SecondsChooseTheirUnit) {
  EXPECT_EQ(HumanSeconds(0), "0 s");
  EXPECT_EQ(HumanSeconds(-1), "0 s");
  EXPECT_EQ(HumanSeconds(0.0031), "3.1 ms");
  EXPECT_EQ(HumanSeconds(0.9999), "1 s");
  EXPECT_EQ(HumanSeconds(2.5), "2.5 s");
  EXPECT_EQ(HumanSeconds(600), "10 min");
  EXPECT_EQ(HumanSeconds(3 * 3600), "3 h");
  EXPECT_EQ(HumanSeconds(5 * 86400), "5 d");
}

TEST(UnitsTest, ATimeToLiveMayBeInDays) {
  EXPECT_EQ(ParseTimeToLive("2d").value(), absl::Hours(48));
  EXPECT_EQ(ParseTimeToLive("30m").value(), absl::Minutes(30));
  EXPECT_EQ(ParseTimeToLive("500ms").value(), absl::Milliseconds(500));
  for (const char* const bad : {"", "d", "-2d", "0d", "400d", "1", "0s", "inf"}) {
    EXPECT_FALSE(ParseTimeToLive(bad).ok()) << bad;
  }
}

}  // namespace
}  // namespace understudy::ctl::units_test
