#include "storage/base/reason.h"

#include <gtest/gtest.h>

#include "storage/base/status_macros.h"

namespace understudy::reason_test {
namespace {

TEST(ReasonTest, ReasonAndMetadataGoThereAndBack) {
  const absl::Status status = WithReason(
      absl::FailedPreconditionError("old term"),
      Reason{.reason = std::string(kReasonFenced), .metadata = {{"term", "4"}, {"empty", ""}}});
  const std::optional<Reason> reason = ReasonOf(status);
  ASSERT_TRUE(reason.has_value());
  EXPECT_EQ(reason->reason, "FENCED");
  EXPECT_EQ(reason->metadata.at("term"), "4");
  EXPECT_EQ(reason->metadata.at("empty"), "");
  EXPECT_TRUE(HasReason(status, kReasonFenced));
  EXPECT_FALSE(HasReason(status, kReasonIncomplete));
}

TEST(ReasonTest, AStatusWithoutOneHasNone) {
  EXPECT_FALSE(ReasonOf(absl::NotFoundError("x")).has_value());
  EXPECT_FALSE(ReasonOf(WithReason(absl::OkStatus(), kReasonFenced)).has_value());
}

TEST(ReasonTest, AnEarlierReasonIsReplaced) {
  const absl::Status status =
      WithReason(WithReason(absl::AbortedError("x"), kReasonIncomplete), kReasonFenced);
  EXPECT_TRUE(HasReason(status, kReasonFenced));
}

TEST(ReasonTest, AnnotatingKeepsCodeAndReason) {
  const absl::Status status =
      Annotate(WithReason(absl::AbortedError("why"), kReasonIncomplete), "volume 7");
  EXPECT_EQ(status.code(), absl::StatusCode::kAborted);
  EXPECT_EQ(std::string(status.message()), "volume 7: why");
  EXPECT_TRUE(HasReason(status, kReasonIncomplete));
}

}  // namespace
}  // namespace understudy::reason_test
