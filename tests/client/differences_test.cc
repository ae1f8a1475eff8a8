#include "client/differences.h"

#include <string>

#include <gtest/gtest.h>

namespace understudy::client::differences_test {
namespace {

constexpr uint64_t kRegion = DirtyMap::kRegionBytes;

Differences Make() { return Differences({{"vda", 16 * kRegion}, {"vdb", 2 * kRegion}}, 1 << 20); }

TEST(DifferencesTest, KeepsVolumesAndKindsApart) {
  Differences differences = Make();
  EXPECT_TRUE(differences.empty());
  differences.AddMissing(0, {4096, 8192});
  differences.AddSuspect(1, {0, 1});
  EXPECT_FALSE(differences.empty());
  EXPECT_GT(differences.missing_bytes(0) + differences.missing_bytes(1), 0u);
  EXPECT_EQ(differences.missing_bytes(0), 4096u);
  EXPECT_EQ(differences.suspect_bytes(1), 4096u) << "whole blocks";
  EXPECT_EQ(differences.bytes(), 8192u);
  EXPECT_TRUE(differences.Holds(0, {0, kRegion}));
  EXPECT_FALSE(differences.Holds(0, {kRegion, 2 * kRegion}));
  EXPECT_TRUE(differences.Holds(1, {0, 512}));
  EXPECT_FALSE(differences.Holds(1, {4096, 8192}));
  differences.RemoveMissing(0, {0, kRegion});
  EXPECT_EQ(differences.missing_bytes(0) + differences.missing_bytes(1), 0u);
  EXPECT_FALSE(differences.empty());
}

// A standby that is lost track of while a range is being compared: that comparison says nothing any more.
TEST(DifferencesTest, WhatBecameSuspectDuringAComparisonStaysSo) {
  Differences differences = Make();
  differences.SuspectAll();
  const auto suspect = differences.NextSuspect(0, 0, 4 * kRegion);
  ASSERT_TRUE(suspect.has_value());
  EXPECT_EQ(suspect->range, (ByteRange{0, 4 * kRegion}));
  differences.SuspectAll();
  differences.RemoveSuspect(0, *suspect);
  EXPECT_EQ(differences.suspect_bytes(0), 16 * kRegion);
  differences.RemoveSuspect(0, *differences.NextSuspect(0, 0, 4 * kRegion));
  EXPECT_EQ(differences.suspect_bytes(0), 12 * kRegion);
}

// To ask for each of many little runs would take longer than to compare what lies between them.
TEST(DifferencesTest, SuspectsNearEachOtherAreComparedTogether) {
  Differences differences = Make();
  differences.AddSuspect(0, {0, 4096});
  differences.AddSuspect(0, {200 << 10, (200 << 10) + 4096});
  differences.AddSuspect(0, {kRegion, kRegion + 4096});
  const auto first = differences.NextSuspect(0, 0, 16 * kRegion);
  ASSERT_TRUE(first.has_value());
  EXPECT_EQ(first->range, (ByteRange{0, (200 << 10) + 4096}));
  EXPECT_EQ(differences.NextSuspect(0, 0, 100 << 10)->range, (ByteRange{0, 4096}));
  differences.RemoveSuspect(0, *first);
  EXPECT_EQ(differences.NextSuspect(0, 0, 16 * kRegion)->range,
            (ByteRange{kRegion, kRegion + 4096}));
}

TEST(DifferencesTest, ComesBackFromItsFile) {
  Differences differences = Make();
  differences.AddMissing(0, {4096, 12288});
  differences.AddSuspect(1, {kRegion, kRegion + 1});
  const std::string file = differences.EncodeAll();

  Differences loaded = Make();
  loaded.AddMissing(0, {0, 4096});  // what is there already stays
  ASSERT_TRUE(loaded.DecodeAll(file).ok());
  EXPECT_EQ(loaded.missing_bytes(0), 12288u);
  EXPECT_EQ(loaded.suspect_bytes(1), 4096u);
}

TEST(DifferencesTest, ADamagedOrForeignFileIsRefusedWhole) {
  Differences differences = Make();
  differences.AddMissing(0, {4096, 12288});
  const std::string file = differences.EncodeAll();
  Differences loaded = Make();
  for (size_t at = 0; at < file.size(); ++at) {
    std::string damaged = file;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
    EXPECT_FALSE(loaded.DecodeAll(damaged).ok()) << at;
    EXPECT_FALSE(loaded.DecodeAll(file.substr(0, at)).ok()) << at;
  }
  EXPECT_TRUE(loaded.empty());
  Differences other({{"vda", 16 * kRegion}}, 1 << 20);
  EXPECT_EQ(other.DecodeAll(file).code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(other.empty());
}

}  // namespace
}  // namespace understudy::client::differences_test
