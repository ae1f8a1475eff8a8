// The primary gives up writing, so that the standby can take over without loss. HANDOVER is a marker of the stream: the epoch it ends and
// the fact are in one frame of the log and in one batch of the index, so that neither is there without the other.
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {

// A takeover that came before its commit has taken it back.
bool ReplicaImpl::HandsOver(const PendingCheckpoint& checkpoint, const GroupRecord& record) {
  return checkpoint.handover != Term() && checkpoint.handover == record.term;
}

absl::Status ReplicaImpl::CheckHandedOver(const GroupRecord& record) const {
  if (record.handed_over) return absl::OkStatus();
  return WithReason(
      absl::FailedPreconditionError(absl::StrCat(
          "group ", name_,
          ": the primary has not handed over: demote it first, or take over with force, without "
          "what came after epoch ",
          record.committed_epoch.value())),
      kReasonNotHandedOver);
}

void ReplicaImpl::ForgetHandover() {
  base::MutexLock lock(mutex_);
  handing_over_ = false;
}

absl::Status ReplicaImpl::TakeBackHandover() {
  base::Turn::Hold hidden_turn(hidden_turn_);
  // One that was received and is not durable yet is meant, too.
  RETURN_IF_ERROR(FlushIndex(/*sync=*/true));
  base::Turn::Hold commit_turn(commit_turn_);
  RETURN_IF_ERROR(NothingGivenUp());
  GroupRecord record = this->record();
  if (record.stage != Stage::kRunning) {
    return WithReason(absl::FailedPreconditionError("Block replication is not running"),
                      kReasonNotRunning);
  }
  if (!std::exchange(record.handed_over, false)) return absl::OkStatus();
  RETURN_IF_ERROR(WriteGroup(record, Index::Batch(context_.index)));
  ForgetHandover();
  base::LogInfo("handover_taken_back").With("group", name_);
  NotifyChange();
  return absl::OkStatus();
}

}  // namespace understudy::storage
