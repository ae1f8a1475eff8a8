// server/stage_table.h
//
// What a secondary answers to each call in each stage, before anything is done: docs/semantics.md section 1 as a function.
// Source   the states and texts: QEMU block/replication.c.
#ifndef UNDERSTUDY_SERVER_STAGE_TABLE_H_
#define UNDERSTUDY_SERVER_STAGE_TABLE_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

#include "storage/base/ids.h"

namespace understudy::server {

inline constexpr absl::string_view kNotRunningText = "Block replication is not running";
inline constexpr absl::string_view kRunningOrDoneText = "Block replication is running or done";
inline constexpr absl::string_view kInUseText = "Block device is in use by internal backup job";
inline constexpr absl::string_view kWrongModeText =
    "The parameter mode's value is invalid, needs 1, but got 0";

enum class Verb {
  kStartSecondary,
  kStartPrimary,
  kCheckpoint,
  kGetError,
  kStop,
  kFailover,
  kRemove,
  kForceRemove,
  kHandshake,
};

struct Verdict {
  bool ignored = false;  // answer with success, change nothing
  absl::Status refusal;  // OK: go on
  bool proceed() const { return !ignored && refusal.ok(); }
};

// A refused handshake carries the reason NOT_RUNNING or FENCED; the caller adds the term.
Verdict Judge(Verb verb, Stage stage);

}  // namespace understudy::server

#endif  // UNDERSTUDY_SERVER_STAGE_TABLE_H_
