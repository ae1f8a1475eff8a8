#include "storage/base/error_log.h"

#include "absl/strings/str_cat.h"
#include <gtest/gtest.h>

#include "storage/base/reason.h"

namespace understudy::base::error_log_test {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);

TEST(ErrorLogTest, EqualErrorsAreCountedWithTheNewestRange) {
  ErrorLog log;
  const absl::Status full = absl::ResourceExhaustedError("full");
  EXPECT_TRUE(log.Latch("disk0", "write", {0, 512}, full, kStart));
  EXPECT_FALSE(log.Latch("disk0", "write", {512, 1024}, full, kStart + absl::Seconds(5)));
  ASSERT_EQ(log.errors().size(), 1u);
  const LatchedError& error = log.errors()[0];
  EXPECT_EQ(error.count, 2u);
  EXPECT_EQ(error.range, (ByteRange{512, 1024}));
  EXPECT_EQ(error.first, kStart);
  EXPECT_EQ(error.last, kStart + absl::Seconds(5));
}

TEST(ErrorLogTest, VolumeOperationCodeAndReasonTellErrorsApart) {
  ErrorLog log;
  const absl::Status lost = absl::DataLossError("bad block");
  log.Latch("disk0", "read", {}, lost, kStart);
  log.Latch("disk1", "read", {}, lost, kStart);
  log.Latch("disk0", "apply", {}, lost, kStart);
  log.Latch("disk0", "read", {}, absl::InternalError("bad block"), kStart);
  log.Latch("disk0", "read", {}, WithReason(lost, kReasonWrongDisk), kStart);
  EXPECT_EQ(log.errors().size(), 5u);
  EXPECT_EQ(log.errors()[4].reason, "WRONG_DISK");
}

TEST(ErrorLogTest, ACommittedResyncClearsMissedWritesButNotDataLoss) {
  ErrorLog log;
  log.Latch("", "write", {}, absl::ResourceExhaustedError("full"), kStart);
  log.Latch("", "write", {}, absl::DataLossError("crc"), kStart);
  log.Latch("disk0", "apply", {}, absl::InternalError("dead disk"), kStart);
  log.ClearMissedWrites();
  ASSERT_EQ(log.errors().size(), 2u);
  EXPECT_EQ(log.errors()[0].code, absl::StatusCode::kDataLoss);
  EXPECT_EQ(log.errors()[1].operation, "apply");
}

TEST(ErrorLogTest, ForgetKeepsWhatWasCountedAgainSince) {
  ErrorLog log;
  log.Latch("disk0", "read", {}, absl::InternalError("once"), kStart);
  log.Latch("disk0", "write", {}, absl::InternalError("again and again"), kStart);
  const std::vector<LatchedError> seen = log.errors();
  log.Latch("disk0", "write", {}, absl::InternalError("again and again"), kStart);
  log.Latch("disk1", "read", {}, absl::InternalError("new"), kStart);
  log.Forget(seen);
  ASSERT_EQ(log.errors().size(), 2u);
  EXPECT_EQ(log.errors()[0].count, 2u);
  EXPECT_EQ(log.errors()[1].volume, "disk1");
}

TEST(ErrorLogTest, ClearBeforeKeepsWhatCameSince) {
  ErrorLog log;
  log.Latch("disk0", "commit", {}, absl::InternalError("first"), kStart);
  const uint64_t mark = log.Mark();
  EXPECT_TRUE(log.Latch("disk0", "commit", {}, absl::InternalError("second"), kStart));
  EXPECT_EQ(log.errors().size(), 2u);
  log.ClearBefore(mark);
  ASSERT_EQ(log.errors().size(), 1u);
  EXPECT_EQ(log.errors()[0].message, "second");
  EXPECT_EQ(log.errors()[0].count, 1u);
}

TEST(ErrorLogTest, TheExtentsOfAnOperationAreNamedByVolume) {
  ErrorLog log;
  const absl::Status missed = absl::AbortedError("missed");
  EXPECT_EQ(log.Extents("write"), "");
  log.Latch("", "write", {}, missed, kStart);
  log.Latch("vda", "write", {0, 4096}, missed, kStart);
  log.Latch("vda", "write", {8192, 12288}, missed, kStart);
  log.Latch("vdb", "write", {0, 512}, missed, kStart);
  log.Latch("vdb", "apply", {0, 512}, missed, kStart);
  EXPECT_EQ(log.Extents("write"),
            "volume vda: 2 times, 8192 bytes, the newest [8192, 12288); "
            "volume vdb: 1 time, 512 bytes, the newest [0, 512)");
}

TEST(ErrorLogTest, RestoredErrorsGoOnCountingAndAreClearedAsOthers) {
  ErrorLog log;
  log.Latch("vda", "write", {0, 512}, absl::InternalError("dead"), kStart);
  ErrorLog restarted;
  restarted.Restore(log.errors());
  EXPECT_FALSE(restarted.Latch("vda", "write", {512, 1024}, absl::InternalError("dead"),
                               kStart + absl::Seconds(1)));
  ASSERT_EQ(restarted.errors().size(), 1u);
  EXPECT_EQ(restarted.errors()[0].count, 2u);
  EXPECT_EQ(restarted.errors()[0].first, kStart);
  restarted.ClearBefore(restarted.Mark());
  EXPECT_TRUE(restarted.errors().empty());
}

TEST(ErrorLogTest, TheNumberOfErrorsIsBoundedButNoneGoesUncounted) {
  ErrorLog log;
  for (int i = 0; i < 100; ++i) {
    log.Latch(absl::StrCat("disk", i), "read", {}, absl::InternalError("dead"), kStart);
  }
  EXPECT_EQ(log.errors().size(), ErrorLog::kErrorsMax);
  uint64_t count = 0;
  for (const LatchedError& error : log.errors()) count += error.count;
  EXPECT_EQ(count, 100u);
}

}  // namespace
}  // namespace understudy::base::error_log_test
