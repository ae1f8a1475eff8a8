#include "storage/base/error_reason.h"

#include <set>

#include <gtest/gtest.h>

#include "storage/base/reason.h"

namespace understudy::base::error_reason_test {
namespace {

absl::string_view Name(const absl::Status& status) { return NameOf(ErrorReasonOf(status)); }

TEST(ErrorReasonTest, WhatTheStandbyHasNotDeclaredIsNoMatterOfReleases) {
  EXPECT_EQ(Name(WithReason(absl::NotFoundError("group"), kReasonUnknownGroup)), "not_declared");
  EXPECT_EQ(Name(WithReason(absl::FailedPreconditionError("size"), kReasonOtherVolumes)),
            "not_declared");
  EXPECT_EQ(Name(WithReason(absl::InvalidArgumentError("volume"), kReasonOtherVolumes)),
            "not_declared");
  EXPECT_EQ(Name(absl::InvalidArgumentError("malformed")), "protocol");
  EXPECT_EQ(Name(absl::UnimplementedError("no such call")), "protocol");
}

TEST(ErrorReasonTest, ADiskOfTheStandbyThatIsMissingOrAnotherOneIsIo) {
  EXPECT_EQ(Name(absl::NotFoundError("secondary disk")), "io");
  EXPECT_EQ(Name(WithReason(absl::FailedPreconditionError("disk"), kReasonWrongDisk)), "io");
}

TEST(ErrorReasonTest, WhatPassesByItselfIsUnavailable) {
  EXPECT_EQ(Name(absl::UnavailableError("gone")), "unavailable");
  EXPECT_EQ(Name(WithReason(absl::FailedPreconditionError("x"), kReasonNotRunning)), "unavailable");
  EXPECT_EQ(Name(WithReason(absl::FailedPreconditionError("x"), kReasonHandedOver)), "unavailable");
}

TEST(ErrorReasonTest, EachReasonHasANameOfItsOwn) {
  const std::set<absl::string_view> names(kErrorReasonNames.begin(), kErrorReasonNames.end());
  EXPECT_EQ(names.size(), kErrorReasonNames.size());
  EXPECT_EQ(kErrorReasonNames.size(), static_cast<size_t>(ErrorReason::kOther) + 1);
  EXPECT_EQ(NameOf(ErrorReason::kFenced), "fenced");
}

}  // namespace
}  // namespace understudy::base::error_reason_test
