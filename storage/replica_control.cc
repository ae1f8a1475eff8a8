#include <algorithm>
#include <future>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {
namespace {

absl::Status NotRunning() {
  return WithReason(absl::FailedPreconditionError("Block replication is not running"),
                    kReasonNotRunning);
}

absl::Status NoCheckpoint(const std::string& group) {
  return WithReason(absl::FailedPreconditionError(absl::StrCat(
                        "group ", group,
                        ": there is no checkpoint to fail over to: the first sync has not ended")),
                    kReasonNoCheckpoint);
}

std::vector<VolumeInfo> InfosOf(const GroupRecord& record) {
  std::vector<VolumeInfo> infos;
  for (const VolumeRecord& volume : record.volumes) {
    infos.push_back({.id = VolumeId(static_cast<uint32_t>(infos.size())),
                     .name = volume.name,
                     .top_id = volume.top_id,
                     .disk_path = volume.disk_path,
                     .size_bytes = volume.size_bytes});
  }
  return infos;
}

std::vector<uint64_t> SizesOf(const GroupRecord& record) {
  std::vector<uint64_t> sizes;
  for (const VolumeRecord& volume : record.volumes) sizes.push_back(volume.size_bytes);
  return sizes;
}

}  // namespace

ReplicaImpl::ReplicaImpl(StoreContext context, GroupRecord record)
    : context_(context),
      name_(record.name),
      volumes_(InfosOf(record)),
      hidden_log_(context.segments, record.number, LogRole::kHidden),
      active_log_(context.segments, record.number, LogRole::kActive),
      overlay_usage_(context.segments.usage(record.number)),
      view_cache_(record.number, context.extent_memory),
      failback_map_(context.index, record.number, SizesOf(record)),
      hidden_compactor_(context.options.segment_bytes),
      active_compactor_(context.options.segment_bytes) {
  for (size_t i = 0; i < volumes_.size(); ++i) {
    range_locks_.push_back(std::make_unique<base::RangeLock>());
    unflushed_.push_back(std::make_unique<base::Unflushed>());
  }
  Chain chain;
  chain.stage = record.stage;
  chain.merged_through.resize(volumes_.size());
  chain.disks.resize(volumes_.size());
  chain_ = std::make_shared<const Chain>(std::move(chain));
  record_ = std::move(record);
}

ReplicaImpl::~ReplicaImpl() = default;

GroupRecord ReplicaImpl::record() const {
  base::MutexLock lock(mutex_);
  return record_;
}

// ---- Start -------------------------------------------------------------------------------------------------------------------

OverlayRecord ReplicaImpl::NewOverlayRecord(LogRole role, Epoch epoch, LogPosition start) const {
  base::MutexLock lock(mutex_);
  return {.group = record_.number, .role = role, .epoch = epoch, .start = start};
}

absl::StatusOr<std::shared_ptr<Overlay>> ReplicaImpl::NewOverlay(LogRole role, Epoch epoch,
                                                                 LogPosition start) {
  ASSIGN_OR_RETURN(const OverlayId id, context_.index.NextOverlay());
  return MakeOverlay(id, NewOverlayRecord(role, epoch, start));
}

std::shared_ptr<Overlay> ReplicaImpl::MakeOverlay(OverlayId id, OverlayRecord record,
                                                  Overlay::Origin origin) const {
  return std::make_shared<Overlay>(id, std::move(record), volumes_.size(), context_.index,
                                   context_.extent_memory, origin);
}

absl::Status ReplicaImpl::Start() {
  base::Turn::Hold control(control_turn_);
  base::Turn::Hold hidden_turn(hidden_turn_);
  base::Turn::Hold flush_turn(flush_turn_);
  GroupRecord record = this->record();
  if (record.stage != Stage::kNone) {
    return absl::FailedPreconditionError("Block replication is running or done");
  }
  RETURN_IF_ERROR(damage_);
  Chain next;
  next.stage = Stage::kRunning;
  next.merged_through.resize(volumes_.size());
  RETURN_IF_ERROR(OpenDisks(&next.disks));
  TakeIdentities(next, &record);
  RETURN_IF_ERROR(MarkDisksFirst(next, record.term.Next()));
  const Epoch epoch = std::max(record.epoch, record.committed_epoch).Next();
  ASSIGN_OR_RETURN(const auto hidden, NewOverlay(LogRole::kHidden, epoch, hidden_log_.end()));
  ASSIGN_OR_RETURN(next.active, NewOverlay(LogRole::kActive, epoch, active_log_.end()));
  next.valid = std::all_of(record.volumes.begin(), record.volumes.end(),
                           [](const auto& v) { return v.initial == Initial::kEqual; });
  record.epoch = epoch;
  record.valid = next.valid;
  // The implicit checkpoint: the secondary disk as it is now.
  record.applied_epoch = record.applying_through = Epoch(epoch.value() - 1);
  record.applied_micros = absl::ToUnixMicros(context_.clock.Now());
  base::Turn::Hold commit_turn(commit_turn_);
  RETURN_IF_ERROR(StoreStart(&record, *hidden, *next.active));
  TrustFailbackMap(next, record.incarnation);
  Publish(std::make_shared<const Chain>(std::move(next)));
  ResetForStart(epoch, hidden, /*incomplete=*/!record.valid);
  base::LogInfo("replication_started")
      .With("group", name_)
      .With("term", record.term.value())
      .With("incarnation", record.incarnation.ToHex())
      .With("valid", record.valid);
  NotifyChange();
  ScheduleJob();
  return absl::OkStatus();
}

// The batch of Start(): a new pairing over empty overlays.
absl::Status ReplicaImpl::StoreStart(GroupRecord* record, const Overlay& hidden,
                                     const Overlay& active) {
  Index::Batch batch(context_.index);
  record->stage = Stage::kRunning;
  record->incarnation = {.high = context_.random(), .low = context_.random() | 1};
  record->term = record->term.Next();
  record->agent_id.clear();
  record->handed_over = record->failback_known = false;
  record->hidden = hidden.id();
  record->active = active.id();
  batch.PutOverlay(hidden.id(), hidden.record());
  batch.PutOverlay(active.id(), active.record());
  batch.PutPosition(record->number, LogRole::kHidden,
                    {.position = hidden_log_.end(), .incomplete = !record->valid});
  batch.PutPosition(record->number, LogRole::kActive, {.position = active_log_.end()});
  return WriteGroup(*record, std::move(batch));
}

void ReplicaImpl::ResetForStart(Epoch epoch, std::shared_ptr<Overlay> hidden, bool incomplete) {
  base::MutexLock lock(mutex_);
  hidden_ = std::move(hidden);
  open_epoch_ = epoch;
  incomplete_ = incomplete;
  handing_over_ = false;
  stream_id_ = received_sequence_ = durable_sequence_ = 0;
  active_reached_ = {.position = active_log_.end(), .sequence = active_sequence_};
}

absl::Status ReplicaImpl::WriteGroup(const GroupRecord& record, Index::Batch batch) {
  batch.PutGroup(record);
  RETURN_IF_ERROR(Annotate(context_.index.Write(std::move(batch), /*sync=*/true),
                           absl::StrCat("group ", name_)));
  bool new_stage = false;
  bool taken_back = false;
  {
    base::MutexLock lock(mutex_);
    new_stage = record_.stage != record.stage;
    taken_back = !new_stage && record_.handed_over && !record.handed_over;
    if (new_stage) changed_.NotifyAll();  // it ends a job's wait
    record_ = record;
  }
  if (new_stage) {
    CallListener([&](ReplicaListener& listener) { listener.OnStage(record.stage, record.term); });
  }
  if (taken_back) CallListener([](ReplicaListener& listener) { listener.OnHandover(false); });
  return absl::OkStatus();
}

// ---- who may write -------------------------------------------------------------------------------------------------------------

absl::Status ReplicaImpl::BindAgent(const std::string& agent_id, bool takeover) {
  const Term before = record().term;
  RETURN_IF_ERROR(StoreAgent(agent_id, takeover));
  if (record().term != before) MarkDisks();
  return absl::OkStatus();
}

absl::Status ReplicaImpl::StoreAgent(const std::string& agent_id, bool takeover) {
  base::Turn::Hold commit_turn(commit_turn_);
  GroupRecord record = this->record();
  if (record.stage != Stage::kRunning) return NotRunning();
  const bool take_back = takeover && state().handing_over;
  if (record.agent_id == agent_id && !take_back) return absl::OkStatus();
  if (!record.agent_id.empty()) {
    if (!takeover) {
      return WithReason(absl::FailedPreconditionError(absl::StrCat(
                            "group ", name_, ": the primaryship of term ", record.term.value(),
                            " belongs to agent ", record.agent_id, ", not ", agent_id,
                            ": start the new primary with --takeover")),
                        Reason{.reason = std::string(kReasonFenced),
                               .metadata = {{"term", absl::StrCat(record.term.value())}}});
    }
    record.term = record.term.Next();
  }
  record.agent_id = agent_id;
  record.handed_over = false;
  RETURN_IF_ERROR(WriteGroup(record, Index::Batch(context_.index)));
  ForgetHandover();  // one that is not committed yet is of another term now
  base::LogInfo("primary_bound")
      .With("group", name_)
      .With("agent", agent_id)
      .With("term", record.term.value());
  NotifyChange();
  return absl::OkStatus();
}

absl::Status ReplicaImpl::AttachStream(uint64_t stream_id, bool may_checkpoint) {
  RETURN_IF_ERROR(AttachDisksAgain());
  base::Turn::Hold hidden_turn(hidden_turn_);
  bool first = false;
  {
    base::MutexLock lock(mutex_);
    may_checkpoint_ = may_checkpoint;
    if (record_.stage != Stage::kRunning) return NotRunning();
    RETURN_IF_ERROR(failed_);
    if (stream_id == stream_id_) return absl::OkStatus();
    first = stream_id_ == 0;
  }
  // Stored before use: from now on any other stream means that something may be missing, even if this one never writes.
  RETURN_IF_ERROR(FlushIndex(/*sync=*/true));
  base::Turn::Hold commit_turn(commit_turn_);
  const GroupRecord record = this->record();
  if (record.stage != Stage::kRunning) return NotRunning();
  bool incomplete = true;
  {
    base::MutexLock lock(mutex_);
    if (first) incomplete = incomplete_;
  }
  Index::Batch batch(context_.index);
  batch.PutPosition(
      record.number, LogRole::kHidden,
      {.position = hidden_log_.end(), .stream_id = stream_id, .incomplete = incomplete});
  RETURN_IF_ERROR(WriteGroup(record, std::move(batch)));
  if (!first) {
    base::LogWarning("stream_replaced")
        .With("group", name_)
        .With("consequence", "incomplete until a resync");
  }
  bool was_incomplete = false;
  {
    base::MutexLock lock(mutex_);
    stream_id_ = stream_id;
    received_sequence_ = durable_sequence_ = 0;
    was_incomplete = std::exchange(incomplete_, incomplete);
  }
  TellIncomplete(was_incomplete, incomplete);
  return absl::OkStatus();
}

// ---- Stop and Failover -----------------------------------------------------------------------------------------------------------

absl::Status ReplicaImpl::CommitReceived() {
  std::promise<absl::Status> committed;
  RequestCheckpoint(
      [&](absl::StatusOr<CheckpointResult> result) { committed.set_value(result.status()); });
  return committed.get_future().get();
}

absl::Status ReplicaImpl::Stop() {
  base::Turn::Hold control(control_turn_);
  {
    base::MutexLock lock(mutex_);
    if (record_.stage != Stage::kRunning) return NotRunning();
    refusing_ = true;
  }
  EndClones("the group is being stopped");
  const auto run = [this]() -> absl::Status {
    RETURN_IF_ERROR(CommitReceived());  // opens disks that were missing
    RETURN_IF_ERROR(WaitForJobs(base::Deadline::Never()));
    return FinishDone(/*drop_hidden=*/true);
  };
  const absl::Status stopped = run();
  if (!stopped.ok()) {
    {
      base::MutexLock lock(mutex_);
      refusing_ = false;
    }
    base::Turn::Hold commit_turn(commit_turn_);
    UpdateBacklog();
  }
  return stopped;
}

// No write of the VM is under way while they are held.
ReplicaImpl::RangeHolds ReplicaImpl::HoldAllWrites() {
  RangeHolds holds;
  for (const VolumeInfo& volume : volumes_) {
    holds.push_back(std::make_unique<base::RangeLock::Hold>(*range_locks_[volume.id.value()],
                                                            ByteRange{0, volume.size_bytes}));
  }
  return holds;
}

absl::Status ReplicaImpl::Failover(const FailoverOptions& options) {
  if (options.received && options.epoch.has_value()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "group ", name_, ": either all that was received or an older epoch: choose one"));
  }
  // Only a failover that finds its disks missing waits for them.
  const absl::Status attached = AttachDisksAgain();
  RangeHolds holds;
  // What has been taken over already is no longer at choice: then it goes on with that.
  if (options.received && state().stage == Stage::kRunning) {
    holds = HoldAllWrites();
    const ReplicaState state = this->state();
    uint64_t active_bytes = 0;
    for (const VolumeUsage& usage : state.usage) active_bytes += usage.active_bytes;
    if (active_bytes > 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "group ", name_, ": the secondary VM has written since the last checkpoint (",
          active_bytes, " bytes): fail over without --received"));
    }
    RETURN_IF_ERROR(CommitReceived());
    RETURN_IF_ERROR(MakeCommittedDurable());  // --durability=none, too: it was asked for
  }
  // Only half a first sync is older than the first checkpoint. One that cannot be made durable is
  // none.
  if (!record().valid && chain()->valid) MakeCommittedDurable().IgnoreError();
  absl::Status cannot_copy;
  {
    base::Turn::Hold commit_turn(commit_turn_);
    const GroupRecord record = this->record();
    const Stage stage = record.stage;
    if (stage == Stage::kRunning) {
      if (options.after_handover) RETURN_IF_ERROR(CheckHandedOver(record));
      RETURN_IF_ERROR(FailoverFromRunning(options));
      cannot_copy = !damage_.ok() ? damage_ : attached;
    } else if (options.epoch.has_value() && *options.epoch != CommittedEpoch()) {
      return absl::FailedPreconditionError(
          absl::StrCat("group ", name_, " has failed over to epoch ", CommittedEpoch().value(),
                       " already: stop --failover without --epoch goes on with it"));
    } else if (stage == Stage::kFailoverFailed) {
      RETURN_IF_ERROR(attached);
      RETURN_IF_ERROR(RetryFailover());
    } else {
      return NotRunning();
    }
  }
  // Damage leaves only Remove; a disk may come back.
  if (!cannot_copy.ok()) FailJob(cannot_copy, Stage::kFailover);
  NotifyChange();
  ScheduleJob();
  return absl::OkStatus();
}

absl::Status ReplicaImpl::RetryFailover() {
  RETURN_IF_ERROR(damage_);
  GroupRecord record = this->record();
  if (!record.valid) return NoCheckpoint(name_);
  Chain next = *chain();
  next.stage = record.stage = Stage::kFailover;
  RETURN_IF_ERROR(WriteGroup(record, Index::Batch(context_.index)));
  Publish(std::make_shared<const Chain>(std::move(next)));
  base::MutexLock lock(mutex_);
  failed_ = absl::OkStatus();
  RetryJob();
  return absl::OkStatus();
}

// That there is a state to take over with, or else damage or missing disks, which say why not.
absl::Status ReplicaImpl::CheckValid(const GroupRecord& record) const {
  if (!damage_.ok() || record.valid) return absl::OkStatus();
  base::MutexLock lock(mutex_);
  return without_disks_.has_value() ? absl::OkStatus() : NoCheckpoint(name_);
}

// Where a failover goes to.
absl::StatusOr<EpochInfo> ReplicaImpl::ChooseEpoch(const FailoverOptions& options,
                                                   const GroupRecord& record) const {
  if (options.epoch.has_value()) return FindEpoch(*options.epoch);
  EpochInfo info{.epoch = CommittedEpoch(), .time = absl::FromUnixMicros(record.committed_micros)};
  if (info.epoch > record.committed_epoch && HiddenFailed()) {
    info.epoch = record.committed_epoch;  // what was shown before it was durable is lost
    base::LogWarning("failover_to_older_epoch")
        .With("group", name_)
        .With("epoch", info.epoch.value())
        .With("why", "the newer ones could not be made durable");
  }
  return info;
}

absl::Status ReplicaImpl::FailoverFromRunning(const FailoverOptions& options) {
  Chain next = *chain();
  GroupRecord record = this->record();
  RETURN_IF_ERROR(CheckValid(record));
  Index::Batch batch(context_.index);
  auto dropped_overlays = std::make_shared<OverlayList>();
  ASSIGN_OR_RETURN(const EpochInfo info, ChooseEpoch(options, record));
  const Epoch target = info.epoch;
  RETURN_IF_ERROR(GoBackTo(info, options.in_use, &next, &record, &batch, dropped_overlays.get()));
  // With --durability=none, published checkpoints may wait for their batch: they stay, and recovery can redo them.
  size_t keep = 0;
  {
    base::MutexLock lock(mutex_);
    for (size_t i = 0; i < hidden_pending_.size(); ++i) {
      const auto& checkpoint = hidden_pending_[i].checkpoint;
      if (checkpoint != nullptr && checkpoint->published && checkpoint->result.epoch <= target) {
        keep = i + 1;
      }
    }
    record.roll_forward_through = target;
  }
  if (keep == 0) {
    batch.DeleteOverlay(record.hidden);
    record.hidden = OverlayId();
  }
  const std::vector<PreparedOverlay> prepared = DropPrepared(&record, &batch);
  for (const PreparedOverlay& overlay : prepared) dropped_overlays->push_back(overlay.overlay);
  record.stage = Stage::kFailover;
  record.term = record.term.Next();
  RETURN_IF_ERROR(WriteGroup(record, std::move(batch)));

  EndClones("the group has failed over");  // before the VM may write to the disk below them
  next.stage = Stage::kFailover;
  Publish(std::make_shared<const Chain>(std::move(next)));
  auto dropped = std::make_shared<std::deque<PendingFrame>>();
  std::shared_ptr<Overlay> hidden;
  {
    base::MutexLock lock(mutex_);
    hidden.swap(hidden_);
    prepared_.clear();
    if (target != committed_.epoch) {
      committed_ = {.epoch = target, .unix_micros = record.committed_micros};
    }
    const auto first = hidden_pending_.begin() + static_cast<std::ptrdiff_t>(keep);
    std::move(first, hidden_pending_.end(), std::back_inserter(*dropped));
    hidden_pending_.erase(first, hidden_pending_.end());
    RememberGivenUp(hidden, *dropped_overlays, *dropped);
    // A hidden log that cannot be trusted is no longer needed.
    (without_disks_.has_value() ? *without_disks_ : failed_) = absl::OkStatus();
  }
  for (PendingFrame& frame : *dropped) {
    if (frame.checkpoint != nullptr) {
      Answer(*frame.checkpoint, WithReason(absl::FailedPreconditionError(
                                               "failed over before the checkpoint was committed"),
                                           kReasonFenced));
    }
  }
  // Millions of extents and many files may end here: not on the way of a failover's answer.
  context_.jobs.Submit(
      [dropped, hidden = std::move(hidden), overlays = std::move(dropped_overlays)] {});
  dropped = nullptr;
  base::LogInfo("failover")
      .With("group", name_)
      .With("term", record.term.value())
      .With("epoch", record.roll_forward_through.value());
  return absl::OkStatus();
}

absl::Status ReplicaImpl::FinishDone(bool drop_hidden) {
  const RangeHolds holds = HoldAllWrites();
  const std::shared_ptr<const Chain> synced = chain();
  for (const VolumeInfo& volume : volumes_) {
    if (drop_hidden) {  // not the job's thread
      RETURN_IF_ERROR(Annotate(synced->disks[volume.id.value()]->Sync(),
                               absl::StrCat("volume ", name_, "/", volume.name)));
    } else {
      RETURN_IF_ERROR(SyncForJob(*synced, volume.id, {0, volume.size_bytes}));
    }
  }
  base::Turn::Hold flush_turn(flush_turn_);
  base::Turn::Hold commit_turn(commit_turn_);
  const std::shared_ptr<const Chain> old_chain = chain();
  GroupRecord record = this->record();
  if (!drop_hidden && record.stage != Stage::kFailover) return absl::OkStatus();
  for (const VolumeInfo& volume :
       volumes_) {  // written to active since the job's last window: it goes on
    if (drop_hidden) continue;
    ASSIGN_OR_RETURN(const auto unmerged, old_chain->NextUnmerged(volume.id, 0));
    if (unmerged.has_value()) return absl::OkStatus();
  }
  if (drop_hidden && record.stage != Stage::kRunning) {
    return absl::AbortedError(
        absl::StrCat("group ", name_, ": failed over while it was being stopped"));
  }
  // Committed meanwhile, or the job was told to stop: what the disk does not have is never dropped.
  if (drop_hidden && !old_chain->committed.empty()) {
    return absl::AbortedError(absl::StrCat("group ", name_, ": epoch ",
                                           old_chain->committed.front()->epoch().value(),
                                           " is not on the secondary disk yet: stop again"));
  }
  Index::Batch batch(context_.index);
  if (record.hidden != OverlayId()) batch.DeleteOverlay(record.hidden);
  const std::vector<PreparedOverlay> prepared = DropPrepared(&record, &batch);
  batch.DeleteOverlay(record.active);
  for (const auto& overlay : old_chain->committed) batch.DeleteOverlay(overlay->id());
  record.hidden = record.active = OverlayId();
  record.stage = Stage::kDone;
  if (drop_hidden) {  // after the last checkpoint of a Stop() nothing more comes in that would be given up
    base::MutexLock lock(mutex_);
    record.failback_known = prepared.empty() && hidden_ != nullptr && hidden_->bytes() == 0;
  }
  RETURN_IF_ERROR(WriteGroup(record, std::move(batch)));
  Chain next;
  next.stage = Stage::kDone;
  next.valid = record.valid;  // an earlier release failed over to a checkpoint that was lost then
  next.merged_through.resize(volumes_.size());
  next.disks = old_chain->disks;
  Publish(std::make_shared<const Chain>(std::move(next)));
  ForgetOverlays();
  UnmarkDisks(*old_chain);
  base::LogInfo("replication_done")
      .With("group", name_)
      .With("epoch", record.committed_epoch.value());
  return absl::OkStatus();
}

// After their drop is durable. They end outside the lock: many extents and files may go with them.
void ReplicaImpl::ForgetOverlays() {
  std::shared_ptr<Overlay> hidden;
  std::deque<PendingFrame> hidden_pending, active_pending, given_up;
  std::vector<PreparedOverlay> prepared;
  {
    base::MutexLock lock(mutex_);
    prepared.swap(prepared_);
    given_up.swap(given_up_);
    hidden.swap(hidden_);
    hidden_pending.swap(hidden_pending_);
    active_pending.swap(active_pending_);
    backlog_epochs_ = history_epochs_ = 0;
    changed_.NotifyAll();
  }
  for (PendingFrame& frame : hidden_pending) {  // asked for while the group was being stopped
    if (frame.checkpoint != nullptr) Answer(*frame.checkpoint, NotRunning());
  }
}

absl::Status ReplicaImpl::Retire(std::optional<uint64_t> failback_mark) {
  ASSIGN_OR_RETURN(const RangeHolds holds, HoldUnlessWritten(failback_mark));
  Close();  // and the clones with it
  base::Turn::Hold control(control_turn_);
  base::Turn::Hold hidden_turn(hidden_turn_);
  base::Turn::Hold flush_turn(flush_turn_);
  base::Turn::Hold commit_turn(commit_turn_);
  GroupRecord record = this->record();
  const std::shared_ptr<const Chain> old_chain = chain();
  Index::Batch batch(context_.index);
  const std::vector<PreparedOverlay> prepared = DropPrepared(&record, &batch);
  batch.DeleteGroup(name_);
  batch.DeletePositions(record.number);
  batch.DeleteFailbackWords(record.number);
  if (record.hidden != OverlayId()) batch.DeleteOverlay(record.hidden);
  if (record.active != OverlayId()) batch.DeleteOverlay(record.active);
  for (const auto& overlay : old_chain->committed) batch.DeleteOverlay(overlay->id());
  // Those that damage kept from being loaded, too.
  for (const OverlayId id : not_loaded_) batch.DeleteOverlay(id);
  const absl::Status written = context_.index.Write(std::move(batch), /*sync=*/true);
  if (!written.ok()) {
    base::MutexLock lock(mutex_);
    closing_ = false;
    return written;
  }
  Chain next;
  next.merged_through.resize(volumes_.size());
  next.disks.resize(volumes_.size());
  Publish(std::make_shared<const Chain>(std::move(next)));
  ForgetOverlays();
  {
    base::MutexLock lock(mutex_);
    record_.stage = Stage::kNone;
  }
  DistrustFailbackMap(*old_chain);
  UnmarkDisks(*old_chain);
  return absl::OkStatus();
}

void ReplicaImpl::Close() {
  EndClones("the group is being closed");
  {
    base::MutexLock lock(mutex_);
    closing_ = true;
    without_disks_.reset();  // so that AttachDisksAgain() does not change that
    changed_.NotifyAll();
    while (job_running_ || scrub_working_) changed_.Wait(mutex_);
  }
  const absl::Status flushed = FlushIndex(/*sync=*/true);
  if (!flushed.ok()) base::LogError("not_flushed").With("group", name_).With("status", flushed);
}

}  // namespace understudy::storage
