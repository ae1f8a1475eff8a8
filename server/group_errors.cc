// The errors of server/group.h that outlive the process, and what an incomplete group can say about itself.
#include <utility>

#include "absl/strings/str_cat.h"

#include "server/group.h"
#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"

namespace understudy::server {

std::string Group::ErrorEra() const {
  const storage::ReplicaState state = replica_->state();
  const bool stopped = state.stage != Stage::kNone && state.stage != Stage::kRunning;
  return absl::StrCat(state.incarnation.ToHex(), stopped ? " stopped" : "");
}

void Group::RestoreErrors() {
  const std::string era = ErrorEra();
  std::vector<base::LatchedError> kept;
  if (error_file_ != nullptr) kept = error_file_->Restore(era);
  {
    base::MutexLock lock(mutex_);
    error_era_ = era;
    errors_.Restore(std::move(kept));
  }
  if (error_file_ == nullptr) return;
  error_file_->Follow([this] {
    base::MutexLock lock(mutex_);
    return base::KeptErrors{.era = error_era_, .errors = errors_.errors()};
  });
}

void Group::ErrorsChanged() {
  if (error_file_ != nullptr) error_file_->Changed();
}

void Group::StoreErrors() {
  if (error_file_ != nullptr)
    error_file_->Store().IgnoreError();  // it has logged why, and tries again
}

void Group::ForgetErrors() {
  ClearErrorsBefore(MarkErrors());
  StoreErrors();
  if (error_file_ != nullptr) error_file_->Close();
}

uint64_t Group::MarkErrors() {
  base::MutexLock lock(mutex_);
  return errors_.Mark();
}

void Group::ClearErrorsBefore(uint64_t mark) {
  std::string era = ErrorEra();
  {
    base::MutexLock lock(mutex_);
    errors_.ClearBefore(mark);
    error_era_ = std::move(era);
  }
  ErrorsChanged();
}

// What is not in the state of the group was an event: if it happens again it is latched again.
std::string Group::CauseOf(const base::LatchedError& error,
                           const storage::ReplicaState& state) const {
  if (error.code == absl::StatusCode::kDataLoss) {
    return absl::StrCat(
        "damage counts as lasting until a scrub finds none; remedy: understudyctl scrub ", name(),
        " --wait, which clears it");
  }
  if (state.stage == Stage::kFailoverFailed) {
    return absl::StrCat("the failover has failed; remedy: understudyctl stop ", name(),
                        " --failover goes on with it");
  }
  if (!state.failure.ok()) return std::string(state.failure.message());
  if (!state.job_failure.ok() && (error.operation == "apply" || error.operation == "commit")) {
    return absl::StrCat("it has not been tried again with success (", state.job_failure.message(),
                        "); a checkpoint tries again");
  }
  if (error.reason == kReasonIncomplete && state.incomplete) {
    return "writes of the primary are missing until a resync has ended; the agent's status shows "
           "it";
  }
  if (error.operation == "write" && state.stage == Stage::kRunning && write_refused_) {
    return "a write of the primary was refused, and none was taken since";
  }
  return "";
}

absl::StatusOr<ErrorReport> Group::ClearError(const Expected& expected) {
  RETURN_IF_ERROR(CheckExpected(expected));
  ASSIGN_OR_RETURN(ErrorReport report, GetError());
  const storage::ReplicaState state = replica_->state();  // newer than what was latched
  for (const base::LatchedError& error : report.errors) {
    const std::string cause = CauseOf(error, state);
    if (!cause.empty()) return base::LastsError(name(), error, cause);
  }
  {
    base::MutexLock lock(mutex_);
    errors_.Forget(report.errors);
  }
  ErrorsChanged();
  base::LogInfo("errors_cleared").With("group", name()).With("errors", report.errors.size());
  if (error_file_ != nullptr) {
    RETURN_IF_ERROR(base::ClearedUntilRestart(name(), error_file_->Store()));
  }
  return report;
}

// ---- missed writes ------------------------------------------------------------------------------------------------------

std::optional<VolumeId> Group::VolumeOf(const Operation& operation) const {
  if (operation.length == 0 || operation.volume >= volumes().size()) return std::nullopt;
  const uint64_t size_bytes = volumes()[operation.volume].size_bytes;
  if (operation.offset > size_bytes || operation.length > size_bytes - operation.offset) {
    return std::nullopt;
  }
  return VolumeId(operation.volume);
}

void Group::OnWriteSkipped(const Operation& incomplete) {
  const std::optional<VolumeId> volume = VolumeOf(incomplete);
  Latch(volume, "write", volume ? incomplete.range() : ByteRange(),
        WithReason(absl::AbortedError(absl::StrCat(
                       "the primary has not forwarded writes", volume ? ", this one first" : "",
                       "; the standby stays at its last checkpoint until it has them; remedy: none "
                       "needed in tee mode, a resync sends them; in forward mode mirror the volume "
                       "again")),
                   kReasonIncomplete));
}

absl::Status Group::IncompleteError() const {
  std::string extents;
  {
    base::MutexLock lock(mutex_);
    extents = errors_.Extents("write");
  }
  if (extents.empty()) extents = "which ones is not known here, the agent's errors may tell";
  return WithReason(absl::AbortedError(absl::StrCat(
                        "group ", name(), ": writes of the primary are missing at the standby (",
                        extents, "); the replica stays at epoch ",
                        replica_->state().committed_epoch.value(), " until a resync has ended")),
                    kReasonIncomplete);
}

absl::Status Group::Explain(const absl::Status& status) const {
  return HasReason(status, kReasonIncomplete) ? IncompleteError() : status;
}

}  // namespace understudy::server
