#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {

absl::Status ReplicaImpl::Recover(const std::vector<std::pair<OverlayId, OverlayRecord>>& overlays,
                                  std::vector<std::shared_ptr<Segment>> hidden_segments,
                                  std::vector<std::shared_ptr<Segment>> active_segments) {
  const absl::Duration begun = context_.clock.Monotonic();
  const size_t segment_count = hidden_segments.size() + active_segments.size();
  hidden_log_.Adopt(std::move(hidden_segments));
  active_log_.Adopt(std::move(active_segments));
  std::vector<OverlayId> stale;
  RETURN_IF_ERROR(LoadOverlays(overlays, &stale));
  RETURN_IF_ERROR(RollHiddenForward());
  RETURN_IF_ERROR(RollActiveForward());
  if (!stale.empty()) {
    Index::Batch batch(context_.index);
    for (const OverlayId id : stale) batch.DeleteOverlay(id);
    RETURN_IF_ERROR(context_.index.Write(std::move(batch), /*sync=*/true));
  }
  RETURN_IF_ERROR(FlushIndex(/*sync=*/true));
  hidden_log_.ForgetAdopted();  // what no overlay holds returns to the pool
  active_log_.ForgetAdopted();
  AttachDisks();
  const ReplicaState recovered = state();
  base::LogInfo("group_recovered")
      .With("group", name_)
      .With("stage", StageName(recovered.stage))
      .With("term", recovered.term.value())
      .With("committed_epoch", recovered.committed_epoch.value())
      .With("unapplied_epochs", recovered.backlog_epochs)
      .With("received_sequence", recovered.received_sequence)
      .With("incomplete", recovered.incomplete)
      .With("segments", segment_count)
      .With("took", context_.clock.Monotonic() - begun);
  ScheduleJob();
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<Overlay>> ReplicaImpl::LoadOverlay(OverlayId id,
                                                                  const OverlayRecord& record) {
  auto overlay = std::make_shared<Overlay>(id, record, volumes_.size());
  const SegmentLog& log = record.role == LogRole::kHidden ? hidden_log_ : active_log_;
  RETURN_IF_ERROR(context_.index.ForEachExtent(
      id, [&](const ExtentKey& key, const Extent& extent) -> absl::Status {
        RETURN_IF_ERROR(CheckVolume(key.volume));
        if (!extent.zero()) {
          const std::shared_ptr<Segment> segment = log.Adopted(extent.segment);
          if (segment == nullptr) {
            return absl::DataLossError(absl::StrCat("group ", name_, " epoch ",
                                                    record.epoch.value(), ": segment ",
                                                    extent.segment, " is missing"));
          }
          overlay->Hold(segment);
        }
        overlay->Load(key.volume, key.end, extent);
        return absl::OkStatus();
      }));
  return overlay;
}

absl::Status ReplicaImpl::LoadOverlays(
    const std::vector<std::pair<OverlayId, OverlayRecord>>& overlays,
    std::vector<OverlayId>* stale) {
  const GroupRecord record = this->record();
  Chain next;
  next.stage = record.stage;
  next.valid = record.valid;
  for (const VolumeRecord& volume : record.volumes)
    next.merged_through.push_back(volume.merged_through);
  std::shared_ptr<Overlay> hidden;
  for (const auto& [id, overlay_record] : overlays) {
    const bool wanted = id == record.hidden || id == record.active || overlay_record.committed;
    if (!wanted) {
      stale->push_back(id);
      continue;
    }
    ASSIGN_OR_RETURN(std::shared_ptr<Overlay> overlay, LoadOverlay(id, overlay_record));
    if (id == record.hidden) {
      hidden = std::move(overlay);
    } else if (id == record.active) {
      next.active = std::move(overlay);
    } else {
      next.committed.push_back(std::move(overlay));
    }
  }
  std::sort(next.committed.begin(), next.committed.end(),
            [](const auto& a, const auto& b) { return a->epoch() > b->epoch(); });
  next.disks.resize(volumes_.size());
  base::WriterLock lock(view_mutex_);
  base::MutexLock memory_lock(mutex_);
  backlog_epochs_ = next.committed.size();
  chain_ = std::make_shared<const Chain>(std::move(next));
  hidden_ = std::move(hidden);
  open_epoch_ = record.epoch;
  committed_ = {.epoch = record.committed_epoch,
                .sequence = record.committed_sequence,
                .stream_id = record.committed_stream,
                .unix_micros = record.committed_micros};
  closing_ = true;  // no job before AttachDisks()
  return absl::OkStatus();
}

// Without its disks the group is there and says why, but serves and takes nothing.
void ReplicaImpl::AttachDisks() {
  Chain next = *chain();
  absl::Status opened;
  next.disks.clear();
  if (next.stage != Stage::kNone) opened = OpenDisks(&next.disks);
  next.disks.resize(volumes_.size());
  next.valid = next.valid && opened.ok();
  Publish(std::make_shared<const Chain>(std::move(next)));
  if (!opened.ok()) {
    base::LogError("disk_not_opened").With("group", name_).With("status", opened);
    if (record().stage == Stage::kFailover) FailJob(opened);  // so that it can be tried again
  }
  base::MutexLock lock(mutex_);
  failed_ = opened;
  closing_ = !opened.ok();
}

absl::Status ReplicaImpl::RollHiddenForward() {
  const GroupRecord record = this->record();
  absl::StatusOr<IndexedPosition> indexed =
      context_.index.Position(record.number, LogRole::kHidden);
  if (absl::IsNotFound(indexed.status())) return absl::OkStatus();  // never started
  RETURN_IF_ERROR(indexed.status());
  {
    base::MutexLock lock(mutex_);
    stream_id_ = indexed->stream_id;
    received_sequence_ = durable_sequence_ = indexed->sequence;
    incomplete_ = indexed->incomplete;
  }
  RETURN_IF_ERROR(hidden_log_.RollForward(
      indexed->position, [this](const ReplayedFrame& frame) { return ReplayHidden(frame); }));
  base::MutexLock lock(mutex_);
  if (record_.stage == Stage::kRunning) {
    // Past every frame that was read, as RollActiveForward() does.
    const IndexedPosition reached = {.position = hidden_log_.end(),
                                     .stream_id = stream_id_,
                                     .sequence = received_sequence_,
                                     .incomplete = incomplete_};
    hidden_pending_.push_back({.overlay = hidden_, .reached = reached});
    return absl::OkStatus();
  }
  hidden_ = nullptr;  // only a failover's committed epochs were wanted
  while (!hidden_pending_.empty() && hidden_pending_.back().checkpoint == nullptr)
    hidden_pending_.pop_back();
  return absl::OkStatus();
}

// As AppendToHidden(), for a frame that is in the log already.
absl::Status ReplicaImpl::ReplayHidden(const ReplayedFrame& frame) {
  std::shared_ptr<Overlay> hidden;
  std::shared_ptr<PendingCheckpoint> checkpoint;
  {
    base::MutexLock lock(mutex_);
    const bool wanted =
        record_.stage == Stage::kRunning || committed_.epoch < record_.roll_forward_through;
    if (!wanted || hidden_ == nullptr || hidden_->id().value() != frame.header.overlay)
      return absl::OkStatus();
    hidden = hidden_;
  }
  for (const Operation& operation : frame.operations) {
    if (operation.has_range()) RETURN_IF_ERROR(CheckVolume(VolumeId(operation.volume)));
  }
  PendingFrame pending{.overlay = hidden};
  hidden->Apply(frame.operations, frame.segment, {frame.payload, frame.checksums},
                &pending.mutations);
  if (frame.header.epoch != 0) {
    checkpoint = std::make_shared<PendingCheckpoint>();
    const Epoch next = Epoch(frame.header.epoch).Next();
    checkpoint->next_hidden = std::make_shared<Overlay>(
        OverlayId(frame.header.next_hidden), NewOverlayRecord(LogRole::kHidden, next, frame.end),
        volumes_.size());
    checkpoint->next_active =
        std::make_shared<Overlay>(OverlayId(frame.header.next_active),
                                  NewOverlayRecord(LogRole::kActive, next, {}), volumes_.size());
    checkpoint->result.epoch = Epoch(frame.header.epoch);
    checkpoint->result.sequence = frame.header.first_sequence + frame.operations.size() - 1;
    checkpoint->stream_id = frame.header.stream_id;
    checkpoint->unix_micros = frame.header.unix_micros;
    checkpoint->arrived = context_.clock.Monotonic();
    context_.index.KeepOverlay(checkpoint->next_hidden->id());
    context_.index.KeepOverlay(checkpoint->next_active->id());
  }
  {
    base::MutexLock lock(mutex_);
    for (const Operation& operation : frame.operations) {
      if (operation.kind == OperationKind::kIncomplete) incomplete_ = true;
      if (operation.kind == OperationKind::kComplete) incomplete_ = false;
    }
    stream_id_ = frame.header.stream_id;
    received_sequence_ = frame.header.first_sequence + frame.operations.size() - 1;
    pending.reached = {.position = frame.end,
                       .stream_id = stream_id_,
                       .sequence = received_sequence_,
                       .incomplete = incomplete_};
    pending.checkpoint = checkpoint;
    if (checkpoint != nullptr) SealHidden(*checkpoint, frame.end);
    hidden_pending_.push_back(std::move(pending));
  }
  if (checkpoint == nullptr) return absl::OkStatus();
  base::Turn::Hold commit_turn(commit_turn_);
  PublishCheckpoint(checkpoint);
  return absl::OkStatus();
}

absl::Status ReplicaImpl::RollActiveForward() {
  const GroupRecord record = this->record();
  absl::StatusOr<IndexedPosition> indexed =
      context_.index.Position(record.number, LogRole::kActive);
  if (absl::IsNotFound(indexed.status())) return absl::OkStatus();
  RETURN_IF_ERROR(indexed.status());
  {
    base::MutexLock lock(mutex_);
    active_sequence_ = indexed->sequence;
    active_reached_ = *indexed;
  }
  const std::shared_ptr<Overlay> active = chain()->active;
  RETURN_IF_ERROR(
      active_log_.RollForward(indexed->position, [&](const ReplayedFrame& frame) -> absl::Status {
        for (const Operation& operation : frame.operations)
          RETURN_IF_ERROR(CheckVolume(VolumeId(operation.volume)));
        base::WriterLock lock(view_mutex_);
        base::MutexLock memory_lock(mutex_);
        active_sequence_ += frame.operations.size();
        active_reached_ = {.position = frame.end, .sequence = active_sequence_};
        // Frames of an active overlay that a checkpoint has dropped are passed over.
        if (active == nullptr || frame.header.overlay != active->id().value())
          return absl::OkStatus();
        PendingFrame pending{.overlay = active, .reached = active_reached_};
        active->Apply(frame.operations, frame.segment, {frame.payload, frame.checksums},
                      &pending.mutations);
        active_pending_.push_back(std::move(pending));
        return absl::OkStatus();
      }));
  if (active == nullptr) return absl::OkStatus();
  // Past the frames that were passed over, too: their segments are recycled now, and the log must be found without them.
  base::MutexLock lock(mutex_);
  active_pending_.push_back({.overlay = active, .reached = active_reached_});
  return absl::OkStatus();
}

}  // namespace understudy::storage
