// storage/base/reason.h
//
// The machine-readable half of an error: a reason in capitals and key/value metadata, carried as a payload of
// absl::Status and put on the wire as google.rpc.ErrorInfo (domain "understudy") by proto/status_codec.
#ifndef UNDERSTUDY_STORAGE_BASE_REASON_H_
#define UNDERSTUDY_STORAGE_BASE_REASON_H_

#include <map>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace understudy {

// Reasons that callers act on. A reason never changes its spelling once released.
inline constexpr absl::string_view kReasonFenced = "FENCED";  // stop writing for good
inline constexpr absl::string_view kReasonNotRunning =
    "NOT_RUNNING";  // retry: the group is not started yet
inline constexpr absl::string_view kReasonNoCheckpoint = "NO_CHECKPOINT";
inline constexpr absl::string_view kReasonIncomplete = "INCOMPLETE";
inline constexpr absl::string_view kReasonWrongDisk = "WRONG_DISK";
inline constexpr absl::string_view kReasonUnknownGroup = "UNKNOWN_GROUP";
// The standby declares other volumes of the group, or other sizes: declare it anew.
inline constexpr absl::string_view kReasonOtherVolumes = "OTHER_VOLUMES";
inline constexpr absl::string_view kReasonWrongMode = "WRONG_MODE";
inline constexpr absl::string_view kReasonNotPrepared = "NOT_PREPARED";  // prepare again
// The primary has given up writing: wait, until the standby takes over or gives it back.
inline constexpr absl::string_view kReasonHandedOver = "HANDED_OVER";
inline constexpr absl::string_view kReasonNotHandedOver =
    "NOT_HANDED_OVER";  // demote the primary, or force
inline constexpr absl::string_view kReasonInUse =
    "IN_USE";  // a VM has the disk open: stop it, or force

struct Reason {
  std::string reason;
  std::map<std::string, std::string> metadata;  // e.g. {"term", "4"}; never secrets
};

// Returns `status` with `reason` attached; an earlier reason is replaced. OK is returned unchanged.
absl::Status WithReason(absl::Status status, Reason reason);
inline absl::Status WithReason(absl::Status status, absl::string_view reason) {
  return WithReason(std::move(status), Reason{.reason = std::string(reason), .metadata = {}});
}

// What WithReason() attached; nothing when none was.
std::optional<Reason> ReasonOf(const absl::Status& status);
bool HasReason(const absl::Status& status, absl::string_view reason);

}  // namespace understudy

#endif  // UNDERSTUDY_STORAGE_BASE_REASON_H_
