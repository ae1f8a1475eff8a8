#include "storage/base/error_reason.h"

#include "storage/base/reason.h"

namespace understudy::base {

ErrorReason ErrorReasonOf(const absl::Status& status) {
  if (HasReason(status, kReasonFenced)) return ErrorReason::kFenced;
  if (HasReason(status, kReasonUnknownGroup) || HasReason(status, kReasonOtherVolumes)) {
    return ErrorReason::kNotDeclared;
  }
  if (HasReason(status, kReasonNotRunning) || HasReason(status, kReasonHandedOver)) {
    return ErrorReason::kUnavailable;  // passes by itself
  }
  if (HasReason(status, kReasonWrongDisk)) return ErrorReason::kIo;
  switch (status.code()) {
    case absl::StatusCode::kDeadlineExceeded:
      return ErrorReason::kTimeout;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
      return ErrorReason::kUnavailable;
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnimplemented:
      return ErrorReason::kProtocol;
    case absl::StatusCode::kResourceExhausted:
      return ErrorReason::kNoSpace;
    case absl::StatusCode::kDataLoss:
      return ErrorReason::kChecksum;
    case absl::StatusCode::kInternal:
    case absl::StatusCode::kNotFound:
    case absl::StatusCode::kPermissionDenied:
      return ErrorReason::kIo;
    default:
      return ErrorReason::kOther;
  }
}

}  // namespace understudy::base
