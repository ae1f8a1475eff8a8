// Epochs that wait to be committed: the middle of a lock-step checkpoint. A prepared epoch is an overlay that is sealed and durable
// and belongs to no view yet. One that is never committed on its own is committed together with the next epoch, over which the
// index keeps it as an overlay of its own: giving it up moves nothing.
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {

OverlayRecord ReplicaImpl::SealedRecord(const Overlay& overlay, LogPosition end, OverlayState state,
                                        int64_t unix_micros) {
  OverlayRecord record = overlay.RecordAfter(overlay.covered());
  record.state = state;
  record.end = end;
  record.unix_micros = unix_micros;
  return record;
}

void ReplicaImpl::AddPrepared(const PendingCheckpoint& checkpoint, GroupRecord* record,
                              Index::Batch* batch) const {
  batch->PutOverlay(checkpoint.sealed->id(),
                    SealedRecord(*checkpoint.sealed, checkpoint.end, OverlayState::kPrepared, 0));
  batch->PutOverlay(checkpoint.next_hidden->id(), checkpoint.next_hidden->record());
  record->hidden = checkpoint.next_hidden->id();
  record->epoch = checkpoint.result.epoch.Next();
  record->prepared_epoch = checkpoint.result.epoch;
  record->prepared_sequence = checkpoint.result.sequence;
  record->prepared_stream = checkpoint.stream_id;
}

void ReplicaImpl::NoteDuration(PendingCheckpoint& checkpoint) const {
  if (checkpoint.duration_micros) return;
  const absl::Duration took = context_.clock.Monotonic() - checkpoint.arrived;
  checkpoint.duration_micros = static_cast<uint64_t>(absl::ToInt64Microseconds(took));
}

void ReplicaImpl::AddCheckpoint(PendingCheckpoint& checkpoint, GroupRecord* record,
                                Index::Batch* batch) {
  if (checkpoint.prepare) return AddPrepared(checkpoint, record, batch);
  const auto commit = [&](const Overlay& overlay, LogPosition end) {
    batch->PutOverlay(overlay.id(),
                      SealedRecord(overlay, end, OverlayState::kCommitted, checkpoint.unix_micros));
  };
  commit(*checkpoint.sealed, checkpoint.end);
  for (const PreparedOverlay& before : checkpoint.before) commit(*before.overlay, before.end);
  batch->PutOverlay(checkpoint.next_active->id(), checkpoint.next_active->record());
  if (record->active != OverlayId()) batch->DeleteOverlay(record->active);
  record->active = checkpoint.next_active->id();
  record->prepared_epoch = Epoch();
  record->prepared_sequence = record->prepared_stream = 0;
  if (checkpoint.next_hidden != nullptr) {  // else it was opened when the epoch was prepared
    record->hidden = OverlayId();
    // After a failover only up to the epoch that is shown: a flush that began before it may end with an older one.
    if (record->stage == Stage::kRunning ||
        checkpoint.result.epoch < record->roll_forward_through) {
      batch->PutOverlay(checkpoint.next_hidden->id(), checkpoint.next_hidden->record());
      record->hidden = checkpoint.next_hidden->id();
    }
    record->epoch = checkpoint.result.epoch.Next();
  }
  record->committed_epoch = checkpoint.result.epoch;
  if (checkpoint.first_sync_step()) return;
  record->committed_sequence = checkpoint.result.sequence;
  record->committed_stream = checkpoint.stream_id;
  record->committed_micros = checkpoint.unix_micros;
  NoteDuration(checkpoint);
  record->committed_bytes = checkpoint.result.bytes;
  record->committed_duration_micros = *checkpoint.duration_micros;
  if (HandsOver(checkpoint, *record)) record->handed_over = true;
  record->valid = true;
}

void ReplicaImpl::AnswerPrepared(PendingCheckpoint& checkpoint) {
  {
    base::MutexLock lock(mutex_);
    checkpoint.published = true;  // who asks from now on is answered from the record
    checkpoint.result.duration = context_.clock.Monotonic() - checkpoint.arrived;
  }
  base::LogInfo("checkpoint_prepared")
      .With("group", name_)
      .With("epoch", checkpoint.result.epoch.value())
      .With("bytes", checkpoint.result.bytes)
      .With("took", checkpoint.result.duration);
  Answer(checkpoint, checkpoint.result);
}

// What commits `epoch`, ready but for its place in the index. REQUIRES: hidden_turn_, commit_turn_.
absl::StatusOr<std::shared_ptr<ReplicaImpl::PendingCheckpoint>> ReplicaImpl::TakePrepared(
    Epoch epoch) {
  auto checkpoint = std::make_shared<PendingCheckpoint>();
  checkpoint->arrived = context_.clock.Monotonic();
  checkpoint->unix_micros = absl::ToUnixMicros(context_.clock.Now());
  ASSIGN_OR_RETURN(checkpoint->next_active,
                   NewOverlay(LogRole::kActive, epoch.Next(), active_log_.end()));
  base::MutexLock lock(mutex_);
  RETURN_IF_ERROR(failed_);
  // The front may be newer already, and on its way to the index: then nobody can want this one any more.
  if (record_.prepared_epoch != epoch || prepared_.empty() ||
      prepared_.front().overlay->epoch() != epoch) {
    return WithReason(
        absl::FailedPreconditionError(absl::StrCat(
            "group ", name_, ": epoch ", epoch.value(), " is not prepared",
            record_.prepared_epoch == Epoch()
                ? std::string(" (none is)")
                : absl::StrCat(" (epoch ", record_.prepared_epoch.value(), " is)"),
            ": it was committed, abandoned or overtaken by a newer marker: prepare again")),
        kReasonNotPrepared);
  }
  checkpoint->sealed = prepared_.front().overlay;
  checkpoint->end = prepared_.front().end;
  checkpoint->before.assign(prepared_.begin() + 1, prepared_.end());
  checkpoint->stream_id = record_.prepared_stream;
  checkpoint->result = {
      .epoch = epoch, .sequence = record_.prepared_sequence, .bytes = checkpoint->sealed->bytes()};
  return checkpoint;
}

// Not before the chain has them: LookAtReceived().
void ReplicaImpl::ForgetPrepared(Epoch committed) {
  std::erase_if(prepared_, [&](const PreparedOverlay& prepared) {
    return prepared.overlay->epoch() <= committed;
  });
}

absl::StatusOr<CheckpointResult> ReplicaImpl::CommitPrepared(Epoch epoch) {
  RETURN_IF_ERROR(AttachDisksAgain());
  std::shared_ptr<PendingCheckpoint> checkpoint;
  {
    base::Turn::Hold hidden_turn(hidden_turn_);  // no marker comes between the look and the commit
    base::Turn::Hold commit_turn(commit_turn_);
    GroupRecord record = this->record();
    if (record.stage != Stage::kRunning) {
      return WithReason(absl::FailedPreconditionError("Block replication is not running"),
                        kReasonNotRunning);
    }
    if (epoch != Epoch() && epoch == record.committed_epoch) {
      return CheckpointResult{.epoch = epoch, .sequence = record.committed_sequence};
    }
    ASSIGN_OR_RETURN(checkpoint, TakePrepared(epoch));
    Index::Batch batch(context_.index);
    AddCheckpoint(*checkpoint, &record, &batch);
    RETURN_IF_ERROR(WriteGroup(record, std::move(batch)));
    PublishCheckpoint(checkpoint);
  }
  NotifyChange();
  ScheduleJob();
  return checkpoint->result;
}

absl::StatusOr<Epoch> ReplicaImpl::AbandonPrepared() {
  // One that was received and is not durable yet is meant, too.
  RETURN_IF_ERROR(FlushIndex(/*sync=*/true));
  base::Turn::Hold commit_turn(commit_turn_);
  RETURN_IF_ERROR(NothingGivenUp());
  GroupRecord record = this->record();
  const Epoch epoch = std::exchange(record.prepared_epoch, Epoch());
  if (epoch == Epoch()) return epoch;
  record.prepared_sequence = record.prepared_stream = 0;
  RETURN_IF_ERROR(WriteGroup(record, Index::Batch(context_.index)));
  base::LogInfo("checkpoint_abandoned").With("group", name_).With("epoch", epoch.value());
  return epoch;
}

std::vector<ReplicaImpl::PreparedOverlay> ReplicaImpl::DropPrepared(GroupRecord* record,
                                                                    Index::Batch* batch) {
  record->prepared_epoch = Epoch();
  record->prepared_sequence = record->prepared_stream = 0;
  base::MutexLock lock(mutex_);
  for (const PreparedOverlay& prepared : prepared_) batch->DeleteOverlay(prepared.overlay->id());
  return prepared_;
}

}  // namespace understudy::storage
