// storage/base/error_reason.h
//
// Why a replication operation failed: the closed set of
// understudy_replication_errors_total{reason}, the same at both ends. What each means for an
// operator: docs/runbooks.md#understudyreplicationerrors.
#ifndef UNDERSTUDY_STORAGE_BASE_ERROR_REASON_H_
#define UNDERSTUDY_STORAGE_BASE_ERROR_REASON_H_

#include <array>
#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace understudy::base {

enum class ErrorReason : size_t {
  kTimeout,
  kUnavailable,
  kNotDeclared,
  kProtocol,
  kNoSpace,
  kIo,
  kChecksum,
  kFenced,
  kOther
};
inline constexpr std::array<absl::string_view, 9> kErrorReasonNames = {
    "timeout", "unavailable", "not_declared", "protocol", "no_space",
    "io",      "checksum",    "fenced",       "other"};

inline absl::string_view NameOf(ErrorReason reason) {
  return kErrorReasonNames[static_cast<size_t>(reason)];
}

// Of what ended an operation or a stream. Which reason an operator acts on comes before the code.
ErrorReason ErrorReasonOf(const absl::Status& status);

}  // namespace understudy::base

#endif  // UNDERSTUDY_STORAGE_BASE_ERROR_REASON_H_
