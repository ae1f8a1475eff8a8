#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {
namespace {

// Otherwise nothing of the hidden log is needed any more.
bool NeedsHidden(const GroupRecord& record) {
  return record.stage == Stage::kRunning ||
         (record.stage != Stage::kNone && record.committed_epoch < record.roll_forward_through);
}

// A started group cannot do without its disks.
absl::Status WithRemedy(const absl::Status& status) {
  absl::Status said(
      status.code(),
      absl::StrCat(status.message(),
                   "; with the disk there repeat the call, or stop the group with --failover and "
                   "remove it with --force, which discards what is not on the disk"));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { said.SetPayload(url, payload); });
  return said;
}

}  // namespace

absl::Status ReplicaImpl::Recover(Remains remains) {
  const absl::Duration begun = context_.clock.Monotonic();
  report_.overlays = remains.overlays.size();
  report_.segments = remains.hidden_segments.size() + remains.active_segments.size();
  hidden_log_.Adopt(std::move(remains.hidden_segments));
  active_log_.Adopt(std::move(remains.active_segments));
  std::vector<OverlayId> stale;
  absl::Status view = RecoverView(remains, &stale);
  absl::Status hidden;
  if (view.ok()) {
    hidden = RollHiddenForward();
    view = RollActiveForward();
  }
  if (view.ok() && report_.newest_term > record().term) {
    view = absl::DataLossError(absl::StrCat(
        "the index says term ", record().term.value(), ", which is older than the log, which says ",
        report_.newest_term.value(), ": its write-ahead log has lost what was promised"));
  }
  if (view.ok()) view = CheckMarkers();
  if (!hidden.ok()) FailHidden(hidden);
  if (!view.ok()) Isolate(view, remains);
  if (damage_.ok() && !stale.empty()) {
    Index::Batch batch(context_.index);
    for (const OverlayId id : stale) batch.DeleteOverlay(id);
    RETURN_IF_ERROR(context_.index.Write(std::move(batch), /*sync=*/true));
  }
  RETURN_IF_ERROR(LoadFailbackMap());
  if (damage_.ok()) {
    RETURN_IF_ERROR(report_.written);  // a disk that takes nothing is not damage
    RETURN_IF_ERROR(FlushIndex(/*sync=*/true));
    if (hidden.ok()) RETURN_IF_ERROR(EndFailoverRollForward());
    // What no overlay holds returns to the pool, unless it may be of an overlay that could not be loaded.
    if (hidden.ok()) hidden_log_.ForgetAdopted();
    active_log_.ForgetAdopted();
  }
  {
    base::Turn::Hold commit_turn(commit_turn_);
    UpdateBacklog();
  }
  AttachDisks();
  report_.took = context_.clock.Monotonic() - begun;
  ScheduleJob();
  return absl::OkStatus();
}

// What the secondary VM sees: without it there is nothing to serve.
absl::Status ReplicaImpl::RecoverView(const Remains& remains, std::vector<OverlayId>* stale) {
  RETURN_IF_ERROR(remains.damage);
  RETURN_IF_ERROR(LoadOverlays(remains.overlays, stale));
  return CheckOverlaysPresent();
}

// The group is there and says why, but serves and takes nothing, and nothing of it is changed or reused.
void ReplicaImpl::Isolate(const absl::Status& damage, const Remains& remains) {
  damage_ = absl::DataLossError(absl::StrCat(
      "group ", name_, ": ", damage.message(),
      ": restore the data directory, or stop the group with --failover, remove it with --force and "
      "start it afresh"));
  not_loaded_ = remains.damaged;
  for (const auto& [id, record] : remains.overlays) not_loaded_.push_back(id);
  Chain nothing = *chain();
  nothing.active = nullptr;
  nothing.committed.clear();
  nothing.valid = false;
  Publish(std::make_shared<const Chain>(std::move(nothing)));
  base::MutexLock lock(mutex_);
  hidden_pending_.clear();
  active_pending_.clear();
  hidden_ = nullptr;
  backlog_epochs_ = 0;
}

// The primary's writes since the last checkpoint are lost; what the secondary VM sees is not, and a failover needs no more.
void ReplicaImpl::FailHidden(const absl::Status& damage) {
  base::MutexLock lock(mutex_);
  if (record_.stage != Stage::kRunning) return;
  failed_ = Annotate(damage, absl::StrCat("group ", name_, ": hidden overlay of epoch ",
                                          open_epoch_.value(), " cannot be read"));
}

void ReplicaImpl::LogRecovery() const {
  const ReplicaState state = this->state();
  absl::Status failed;
  {
    base::MutexLock lock(mutex_);
    failed = failed_;
  }
  const RolledForward& hidden = hidden_log_.rolled_forward();
  const RolledForward& active = active_log_.rolled_forward();
  base::LogInfo("group_recovered")
      .With("group", name_)
      .With("stage", StageName(state.stage))
      .With("term", state.term.value())
      .With("committed_epoch", state.committed_epoch.value())
      .With("unapplied_epochs", state.backlog_epochs)
      .With("overlays", report_.overlays)
      .With("segments", report_.segments)
      .With("hidden_frames", hidden.frames)
      .With("hidden_bytes", hidden.bytes)
      .With("hidden_cut", hidden.cut.ToString())
      .With("hidden_cut_by", CutReasonName(hidden.reason))
      .With("active_frames", active.frames)
      .With("active_bytes", active.bytes)
      .With("active_cut", active.cut.ToString())
      .With("active_cut_by", CutReasonName(active.reason))
      .With("stream_resumes_after", state.received_sequence)
      .With("incomplete", state.incomplete)
      .With("took", report_.took);
  if (!failed.ok()) base::LogError("group_not_whole").With("group", name_).With("status", failed);
}

// Costs nothing per extent: its maps begin cold. It holds every segment that its extents in the index can name.
absl::StatusOr<std::shared_ptr<Overlay>> ReplicaImpl::LoadOverlay(OverlayId id,
                                                                  const OverlayRecord& record) {
  auto overlay = MakeOverlay(id, record, Overlay::Origin::kIndex);
  const SegmentLog& log = record.role == LogRole::kHidden ? hidden_log_ : active_log_;
  ASSIGN_OR_RETURN(const auto segments,
                   SegmentsOf(record, [&](uint32_t ordinal) { return log.Adopted(ordinal); }));
  for (const std::shared_ptr<Segment>& segment : segments) overlay->HoldSegment(segment);
  return overlay;
}

absl::Status ReplicaImpl::LoadOverlays(
    const std::vector<std::pair<OverlayId, OverlayRecord>>& overlays,
    std::vector<OverlayId>* stale) {
  const GroupRecord record = this->record();
  {
    base::MutexLock lock(mutex_);
    open_epoch_ = record.epoch;
    committed_ = {.epoch = record.committed_epoch,
                  .sequence = record.committed_sequence,
                  .stream_id = record.committed_stream,
                  .unix_micros = record.committed_micros,
                  .bytes = record.committed_bytes,
                  .duration_micros = record.committed_duration_micros};
    closing_ = true;  // no job before AttachDisks()
  }
  Chain next;
  next.stage = record.stage;
  next.valid = record.valid;
  for (const VolumeRecord& volume : record.volumes)
    next.merged_through.push_back(volume.merged_through);
  std::shared_ptr<Overlay> hidden;
  std::vector<PreparedOverlay> sealed;
  absl::Status hidden_status;
  for (const auto& [id, overlay_record] : overlays) {
    const bool prepared = overlay_record.state == OverlayState::kPrepared && NeedsHidden(record);
    const bool wanted = id == record.hidden || id == record.active || prepared ||
                        overlay_record.state == OverlayState::kCommitted;
    if (!wanted) {
      stale->push_back(id);
      continue;
    }
    absl::StatusOr<std::shared_ptr<Overlay>> loaded = LoadOverlay(id, overlay_record);
    if ((id == record.hidden || prepared) && !loaded.ok()) {
      hidden_status = loaded.status();
      continue;
    }
    RETURN_IF_ERROR(loaded.status());
    std::shared_ptr<Overlay> overlay = *std::move(loaded);
    if (id == record.hidden) {
      hidden = std::move(overlay);
    } else if (id == record.active) {
      next.active = std::move(overlay);
    } else if (prepared) {
      sealed.push_back({std::move(overlay), overlay_record.end});
    } else {
      next.committed.push_back(std::move(overlay));
    }
  }
  std::sort(next.committed.begin(), next.committed.end(),
            [](const auto& a, const auto& b) { return a->epoch() > b->epoch(); });
  std::sort(sealed.begin(), sealed.end(),
            [](const auto& a, const auto& b) { return a.overlay->epoch() > b.overlay->epoch(); });
  if (hidden_status.ok()) hidden_status = CheckPreparedPresent(record, sealed);
  next.disks.resize(volumes_.size());
  base::WriterLock lock(view_mutex_);
  base::MutexLock memory_lock(mutex_);
  chain_ = std::make_shared<const Chain>(std::move(next));
  hidden_ = std::move(hidden);
  prepared_ = std::move(sealed);
  failed_ = hidden_status;
  handing_over_ = record.handed_over;
  return absl::OkStatus();
}

// The epochs between the committed ones and the open one, without a gap.
absl::Status ReplicaImpl::CheckPreparedPresent(const GroupRecord& record,
                                               std::span<const PreparedOverlay> prepared) {
  if (record.stage != Stage::kRunning) return absl::OkStatus();
  Epoch expected = Epoch(record.epoch.value() - 1);
  for (const PreparedOverlay& found : prepared) {
    if (found.overlay->epoch() != expected) break;
    expected = Epoch(expected.value() - 1);
  }
  if (expected <= std::max(record.committed_epoch, record.applied_epoch)) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the overlay of epoch ", expected.value(),
                                          ", which is prepared, is missing from the index"));
}

// The overlays that the group's record names, and committed epochs without a gap.
absl::Status ReplicaImpl::CheckOverlaysPresent() const {
  const GroupRecord record = this->record();
  const std::shared_ptr<const Chain> chain = this->chain();
  if (record.active != OverlayId() && chain->active == nullptr) {
    return absl::DataLossError(
        absl::StrCat("active overlay ", record.active.value(), " is missing from the index"));
  }
  Epoch expected = record.committed_epoch;
  for (const auto& overlay : chain->committed) {
    if (overlay->epoch() != expected) {
      return absl::DataLossError(
          absl::StrCat("overlay of epoch ", expected.value(), " is missing from the index"));
    }
    expected = Epoch(expected.value() - 1);
  }
  if (expected > record.applied_epoch && record.active != OverlayId()) {
    return absl::DataLossError(
        absl::StrCat("overlay of epoch ", expected.value(), " is missing from the index"));
  }
  return absl::OkStatus();
}

absl::Status ReplicaImpl::OpenDisks(std::vector<std::shared_ptr<SecondaryDisk>>* disks) {
  const GroupRecord record = this->record();
  for (const VolumeRecord& volume : record.volumes) {
    absl::StatusOr<std::unique_ptr<SecondaryDisk>> disk =
        SecondaryDisk::Open(context_.file_system, record, volume, context_.options.data_dir);
    if (!disk.ok()) {
      return record.stage == Stage::kNone ? disk.status() : WithRemedy(disk.status());
    }
    disks->push_back(*std::move(disk));
  }
  return absl::OkStatus();
}

bool ReplicaImpl::TakeIdentities(const Chain& chain, GroupRecord* record) {
  bool changed = false;
  for (size_t i = 0; i < record->volumes.size(); ++i) {
    const SecondaryDisk* const disk = chain.disks[i].get();
    if (disk == nullptr || disk->identity() == record->volumes[i].identity) continue;
    base::LogInfo("disk_known_by_another_name")
        .With("group", record->name)
        .With("volume", record->volumes[i].name)
        .With("disk", record->volumes[i].disk_path)
        .With("was", record->volumes[i].identity.file_system)
        .With("is", disk->identity().file_system);
    record->volumes[i].identity = disk->identity();
    changed = true;
  }
  return changed;
}

// What is not stored is found again at the next start. The marker first: it is what the old name
// was excused by.
void ReplicaImpl::StoreIdentities() {
  GroupRecord seen = record();
  if (!TakeIdentities(*chain(), &seen)) return;
  MarkDisks();
  base::Turn::Hold commit_turn(commit_turn_);
  GroupRecord record = this->record();
  if (record.stage == Stage::kNone) return;  // removed meanwhile
  for (size_t i = 0; i < record.volumes.size(); ++i) {
    record.volumes[i].identity = seen.volumes[i].identity;
  }
  const absl::Status stored = WriteGroup(record, Index::Batch(context_.index));
  if (stored.ok()) return;
  base::LogWarning("disk_name_not_stored").With("group", name_).With("status", stored);
}

// Without its disks the group is there and says why, but serves and takes nothing.
void ReplicaImpl::AttachDisks() {
  Chain next = *chain();
  absl::Status opened = damage_;
  next.disks.clear();
  if (damage_.ok() && next.stage != Stage::kNone) opened = OpenDisks(&next.disks);
  next.disks.resize(volumes_.size());
  next.valid = next.valid && opened.ok();
  Publish(std::make_shared<const Chain>(std::move(next)));
  if (opened.ok()) StoreIdentities();
  if (!opened.ok()) {
    if (record().stage == Stage::kFailover)
      FailJob(opened, Stage::kFailover);  // so that it can be tried again
  }
  base::MutexLock lock(mutex_);
  if (!opened.ok()) {
    if (damage_.ok()) without_disks_ = failed_;
    failed_ = opened;
  }
  closing_ = !opened.ok();
}

absl::Status ReplicaImpl::AttachDisksAgain() {
  const auto attached = [this] {
    base::MutexLock lock(mutex_);
    return !without_disks_.has_value();
  };
  if (attached()) return absl::OkStatus();
  base::Turn::Hold attach_turn(attach_turn_);
  if (attached()) return absl::OkStatus();
  std::vector<std::shared_ptr<SecondaryDisk>> disks;
  RETURN_IF_ERROR(OpenDisks(&disks));
  RETURN_IF_ERROR(CheckMarkers());  // while they were away another data directory may have had them
  {
    base::Turn::Hold commit_turn(commit_turn_);
    Chain next = *chain();
    next.disks = std::move(disks);
    next.valid = record().valid;
    Publish(std::make_shared<const Chain>(std::move(next)));
    base::MutexLock lock(mutex_);
    if (!without_disks_.has_value()) {
      return absl::UnavailableError(absl::StrCat("group ", name_, " is being closed"));
    }
    failed_ = *std::exchange(without_disks_, std::nullopt);
    closing_ = false;
  }
  StoreIdentities();
  MarkDisks();  // the term may have risen
  base::LogInfo("disks_attached").With("group", name_);
  NotifyChange();
  ScheduleJob();
  return absl::OkStatus();
}

absl::Status ReplicaImpl::RollHiddenForward() {
  const GroupRecord record = this->record();
  absl::StatusOr<IndexedPosition> indexed =
      context_.index.Position(record.number, LogRole::kHidden);
  const bool wanted = NeedsHidden(record);
  if (!wanted && !indexed.ok()) return absl::OkStatus();
  RETURN_IF_ERROR(Annotate(indexed.status(), "position of the hidden log"));
  {
    base::MutexLock lock(mutex_);
    RETURN_IF_ERROR(failed_);  // the overlay could not be loaded
    if (record.stage == Stage::kRunning && hidden_ == nullptr) {
      return absl::DataLossError("its record is damaged or missing");
    }
    stream_id_ = indexed->stream_id;
    received_sequence_ = durable_sequence_ = indexed->sequence;
    incomplete_ = indexed->incomplete;
    if (!wanted) return absl::OkStatus();
  }
  RETURN_IF_ERROR(hidden_log_.RollForward(
      indexed->position, [this](const ReplayedFrame& frame) { return ReplayHidden(frame); }));
  base::MutexLock lock(mutex_);
  if (record_.stage == Stage::kRunning) {
    if (hidden_log_.rolled_forward().frames == 0) return absl::OkStatus();  // no batch, no sync
    // Past every frame that was read, as RollActiveForward() does.
    const IndexedPosition reached = {.position = hidden_log_.end(),
                                     .stream_id = stream_id_,
                                     .sequence = received_sequence_,
                                     .incomplete = incomplete_};
    hidden_pending_.push_back({.overlay = hidden_, .reached = reached});
    return absl::OkStatus();
  }
  hidden_ = nullptr;  // only a failover's committed epochs were wanted
  prepared_.clear();
  while (!hidden_pending_.empty() && (hidden_pending_.back().checkpoint == nullptr ||
                                      hidden_pending_.back().checkpoint->prepare)) {
    hidden_pending_.pop_back();
  }
  return absl::OkStatus();
}

// What the log has lost of a failover's epochs, with --durability=none, is lost for good: the next recovery must not look for it in
// segments that are used again.
absl::Status ReplicaImpl::EndFailoverRollForward() {
  base::Turn::Hold commit_turn(commit_turn_);
  GroupRecord record = this->record();
  if (record.stage == Stage::kRunning || !NeedsHidden(record)) return absl::OkStatus();
  base::LogWarning("failover_to_older_epoch")
      .With("group", name_)
      .With("epoch", record.committed_epoch.value())
      .With("why", "the log has lost the newer ones");
  Index::Batch batch(context_.index);
  batch.DeleteOverlay(record.hidden);
  record.hidden = OverlayId();
  record.roll_forward_through = record.committed_epoch;
  return WriteGroup(record, std::move(batch));
}

// As AppendToHidden(), for a frame that is in the log already.
absl::Status ReplicaImpl::ReplayHidden(const ReplayedFrame& frame) {
  report_.newest_term = std::max(report_.newest_term, Term(frame.header.term));
  std::shared_ptr<Overlay> hidden;
  std::shared_ptr<PendingCheckpoint> checkpoint;
  {
    base::MutexLock lock(mutex_);
    const bool wanted =
        record_.stage == Stage::kRunning || committed_.epoch < record_.roll_forward_through;
    if (!wanted || hidden_ == nullptr || hidden_->id().value() != frame.header.overlay ||
        (frame.header.flags & kFrameCompaction) != 0) {
      return absl::OkStatus();
    }
    hidden = hidden_;
  }
  for (const Operation& operation : frame.operations) {
    if (operation.has_range()) RETURN_IF_ERROR(CheckVolume(VolumeId(operation.volume)));
  }
  report_.written.Update(SegmentLog::WriteAgain(frame));
  Overlay::Hold hold(*hidden, frame.operations);
  RETURN_IF_ERROR(hold.Load());
  PendingFrame pending{.overlay = hidden};
  pending.change = hidden->Apply(frame.operations, frame.segment, {frame.payload, frame.checksums});
  if (frame.header.epoch != 0) {
    checkpoint = std::make_shared<PendingCheckpoint>();
    const Epoch next = Epoch(frame.header.epoch).Next();
    checkpoint->next_hidden = MakeOverlay(OverlayId(frame.header.next_hidden),
                                          NewOverlayRecord(LogRole::kHidden, next, frame.end));
    checkpoint->prepare = frame.header.next_active == 0;
    if (!checkpoint->prepare) {
      checkpoint->next_active = MakeOverlay(OverlayId(frame.header.next_active),
                                            NewOverlayRecord(LogRole::kActive, next, {}));
      context_.index.KeepOverlay(checkpoint->next_active->id());
    }
    checkpoint->result.epoch = Epoch(frame.header.epoch);
    checkpoint->unix_micros = frame.header.unix_micros;
    if (checkpoint->prepare || !checkpoint->first_sync_step()) {
      checkpoint->result.sequence = frame.header.first_sequence + frame.operations.size() - 1;
    }
    checkpoint->stream_id = frame.header.stream_id;
    const bool handover =
        !frame.operations.empty() && frame.operations.back().kind == OperationKind::kHandover;
    if (handover) checkpoint->handover = Term(frame.header.term);
    checkpoint->arrived = context_.clock.Monotonic();
    checkpoint->duration_micros = 0;
    context_.index.KeepOverlay(checkpoint->next_hidden->id());
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
  if (checkpoint == nullptr || checkpoint->prepare) return absl::OkStatus();
  base::Turn::Hold commit_turn(commit_turn_);
  PublishCheckpoint(checkpoint);
  return absl::OkStatus();
}

absl::Status ReplicaImpl::RollActiveForward() {
  const GroupRecord record = this->record();
  absl::StatusOr<IndexedPosition> indexed =
      context_.index.Position(record.number, LogRole::kActive);
  if (record.active == OverlayId()) return absl::OkStatus();
  RETURN_IF_ERROR(Annotate(indexed.status(), "position of the active log"));
  {
    base::MutexLock lock(mutex_);
    active_sequence_ = indexed->sequence;
    active_reached_ = *indexed;
  }
  const std::shared_ptr<Overlay> active = chain()->active;
  RETURN_IF_ERROR(
      active_log_.RollForward(indexed->position, [&](const ReplayedFrame& frame) -> absl::Status {
        report_.newest_term = std::max(report_.newest_term, Term(frame.header.term));
        for (const Operation& operation : frame.operations)
          RETURN_IF_ERROR(CheckVolume(VolumeId(operation.volume)));
        // Frames of an active overlay that a checkpoint has dropped are passed over.
        const bool moved = (frame.header.flags & kFrameCompaction) != 0;
        const bool wanted =
            active != nullptr && frame.header.overlay == active->id().value() && !moved;
        if (wanted) report_.written.Update(SegmentLog::WriteAgain(frame));
        std::optional<Overlay::Hold> hold;
        if (wanted) {
          hold.emplace(*active, frame.operations);
          RETURN_IF_ERROR(hold->Load());
        }
        base::WriterLock lock(view_mutex_);
        base::MutexLock memory_lock(mutex_);
        if (!moved) active_sequence_ += frame.operations.size();
        active_reached_ = {.position = frame.end, .sequence = active_sequence_};
        if (!wanted) return absl::OkStatus();
        PendingFrame pending{.overlay = active, .reached = active_reached_};
        pending.change =
            active->Apply(frame.operations, frame.segment, {frame.payload, frame.checksums});
        active_pending_.push_back(std::move(pending));
        return absl::OkStatus();
      }));
  if (active == nullptr || active_log_.rolled_forward().frames == 0) return absl::OkStatus();
  // Past the frames that were passed over, too: their segments are recycled now, and the log must be found without them.
  base::MutexLock lock(mutex_);
  active_pending_.push_back({.overlay = active, .reached = active_reached_});
  return absl::OkStatus();
}

}  // namespace understudy::storage
