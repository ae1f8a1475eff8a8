// server/fenced.h
//
// The error that tells a writer or a caller of an older pairing to stop, with the current term as docs/protocol.md says.
#ifndef UNDERSTUDY_SERVER_FENCED_H_
#define UNDERSTUDY_SERVER_FENCED_H_

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

#include "storage/base/ids.h"
#include "storage/base/reason.h"

namespace understudy::server {

inline absl::Status FencedError(absl::string_view text, Term current) {
  return WithReason(absl::FailedPreconditionError(text),
                    Reason{.reason = std::string(kReasonFenced),
                           .metadata = {{"term", absl::StrCat(current.value())}}});
}

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_FENCED_H_
