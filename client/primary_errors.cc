// The latched errors of client/primary.h: when they go, and which of them somebody may acknowledge.
#include "absl/strings/str_cat.h"

#include "client/primary.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"

namespace understudy::client {

// Of the stage that ended. Stored at once: a control call may wait for it.
void Primary::ClearErrors() {
  forwarder_->errors().Clear(std::string(StageName(stage())));
  forwarder_->errors().Store().IgnoreError();
}

// What is not in the state of the group was an event: if it happens again it is latched again.
std::string Primary::CauseOf(const base::LatchedError& error) const {
  if (error.reason == kReasonFenced && fenced()) {
    return "the standby has another primary, or none any more; remedy: stop this one, or start it "
           "with takeover";
  }
  if (error.operation == "state" && intents_ != nullptr && !intents_->kept()) {
    return intents_->failure().ok()
               ? "the state directory still takes nothing; remedy: free space there, or make it "
                 "writable again"
               : "the state directory still takes nothing, and the VM's writes fail; remedy: make "
                 "it writable again";
  }
  const ForwarderState state = forwarder_->state();
  if (!state.running) return "";
  if (error.operation == "verify" && sync_state() == SyncState::kDiverged) {
    return absl::StrCat("the disks differ; remedy: understudyctl sync ", group(), " --full --wait");
  }
  if (error.reason == kReasonIncomplete || error.operation == "forward") {
    return state.incomplete ? absl::StrCat(
                                  "the standby misses writes until a resync has ended; "
                                  "follow it with: understudyctl sync ",
                                  group(), " --wait")
                            : "";
  }
  const bool of_the_peer =
      error.operation == "connect" || (error.operation == "write" && error.volume.empty());
  if (of_the_peer && !state.connected) return "the standby is not connected";
  return "";
}

absl::StatusOr<std::vector<base::LatchedError>> Primary::ClearError() {
  if (stage() == Stage::kNone) {
    return WithReason(absl::FailedPreconditionError(
                          absl::StrCat("group ", group(), ": Block replication is not running")),
                      kReasonNotRunning);
  }
  std::vector<base::LatchedError> seen = errors();
  for (const base::LatchedError& error : seen) {
    const std::string cause = CauseOf(error);
    if (!cause.empty()) return base::LastsError(group(), error, cause);
  }
  forwarder_->errors().Forget(seen);
  base::LogInfo("errors_cleared").With("group", group()).With("errors", seen.size());
  RETURN_IF_ERROR(base::ClearedUntilRestart(group(), forwarder_->errors().Store()));
  return seen;
}

}  // namespace understudy::client
