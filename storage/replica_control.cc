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

}  // namespace

ReplicaImpl::ReplicaImpl(StoreContext context, GroupRecord record)
    : context_(context),
      name_(record.name),
      volumes_(InfosOf(record)),
      hidden_log_(context.segments, record.number, LogRole::kHidden),
      active_log_(context.segments, record.number, LogRole::kActive) {
  for (size_t i = 0; i < volumes_.size(); ++i) {
    range_locks_.push_back(std::make_unique<base::RangeLock>());
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

// ---- looking at it ---------------------------------------------------------------------------------------------------------

std::shared_ptr<const Chain> ReplicaImpl::chain() const {
  base::ReaderLock lock(view_mutex_);
  return chain_;
}

void ReplicaImpl::Publish(std::shared_ptr<const Chain> next) {
  base::WriterLock lock(view_mutex_);
  chain_.swap(next);  // the old one ends outside the lock
}

ReplicaState ReplicaImpl::state() const {
  const std::shared_ptr<const Chain> chain = this->chain();
  ReplicaState state;
  state.usage.resize(volumes_.size());
  base::MutexLock lock(mutex_);
  state.stage = record_.stage;
  state.incarnation = record_.incarnation;
  state.term = record_.term;
  state.agent_id = record_.agent_id;
  state.epoch = open_epoch_;
  state.committed_epoch = committed_.epoch;
  state.committed_sequence = committed_.stream_id == stream_id_ ? committed_.sequence : 0;
  state.committed_time = absl::FromUnixMicros(committed_.unix_micros);
  state.valid = chain->valid;
  state.incomplete = incomplete_;
  state.stream_id = stream_id_;
  state.received_sequence = received_sequence_;
  state.durable_sequence = durable_sequence_;
  state.backlog_epochs = backlog_epochs_;
  for (const VolumeInfo& volume : volumes_) {
    VolumeUsage& usage = state.usage[volume.id.value()];
    if (hidden_ != nullptr) usage.hidden_bytes = hidden_->bytes(volume.id);
    for (const PendingFrame& frame : hidden_pending_) {
      if (frame.checkpoint != nullptr && !frame.checkpoint->published) {
        usage.hidden_bytes += frame.checkpoint->sealed->bytes(volume.id);
      }
    }
    if (chain->active != nullptr) usage.active_bytes = chain->active->bytes(volume.id);
    for (const auto& overlay : chain->committed) usage.committed_bytes += overlay->bytes(volume.id);
  }
  if (job_running_) state.jobs.push_back(job_);
  return state;
}

void ReplicaImpl::SetListener(ReplicaListener* listener) {
  {
    base::MutexLock lock(listener_mutex_);
    listener_ = listener;
    while (listener_calls_ > 0) listener_idle_.Wait(listener_mutex_);
  }
  absl::Status failed;
  {
    base::MutexLock lock(mutex_);
    failed = failed_;
  }
  // What went wrong before anybody listened, such as a disk that could not be opened at recovery.
  if (listener != nullptr && !failed.ok()) Report({.operation = "open", .status = failed});
}

void ReplicaImpl::NotifyChange() {
  ReplicaListener* listener = nullptr;
  {
    base::MutexLock lock(listener_mutex_);
    listener = listener_;
    if (listener == nullptr) return;
    ++listener_calls_;
  }
  listener->OnChange();
  base::MutexLock lock(listener_mutex_);
  if (--listener_calls_ == 0) listener_idle_.NotifyAll();
}

void ReplicaImpl::Report(BackgroundError error) {
  base::LogError("background_error")
      .With("group", name_)
      .With("operation", error.operation)
      .With("volume", error.volume.has_value() ? volumes_[error.volume->value()].name : "")
      .With("status", error.status);
  ReplicaListener* listener = nullptr;
  {
    base::MutexLock lock(listener_mutex_);
    listener = listener_;
    if (listener == nullptr) return;
    ++listener_calls_;
  }
  listener->OnBackgroundError(error);
  base::MutexLock lock(listener_mutex_);
  if (--listener_calls_ == 0) listener_idle_.NotifyAll();
}

absl::Status ReplicaImpl::CheckVolume(VolumeId volume) const {
  if (volume.value() < volumes_.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("group ", name_, " has no volume number ", volume.value()));
}

// ---- Start -------------------------------------------------------------------------------------------------------------------

OverlayRecord ReplicaImpl::NewOverlayRecord(LogRole role, Epoch epoch, LogPosition start) const {
  base::MutexLock lock(mutex_);
  return {.group = record_.number, .role = role, .epoch = epoch, .start = start};
}

absl::StatusOr<std::shared_ptr<Overlay>> ReplicaImpl::NewOverlay(LogRole role, Epoch epoch,
                                                                 LogPosition start) {
  ASSIGN_OR_RETURN(const OverlayId id, context_.index.NextOverlay());
  return std::make_shared<Overlay>(id, NewOverlayRecord(role, epoch, start), volumes_.size());
}

absl::Status ReplicaImpl::OpenDisks(std::vector<std::shared_ptr<SecondaryDisk>>* disks) {
  for (const VolumeRecord& volume : record().volumes) {
    ASSIGN_OR_RETURN(std::shared_ptr<SecondaryDisk> disk,
                     SecondaryDisk::Open(context_.file_system, volume));
    disks->push_back(std::move(disk));
  }
  return absl::OkStatus();
}

absl::Status ReplicaImpl::Start() {
  base::Turn::Hold control(control_turn_);
  base::Turn::Hold hidden_turn(hidden_turn_);
  base::Turn::Hold flush_turn(flush_turn_);
  GroupRecord record = this->record();
  if (record.stage != Stage::kNone) {
    return absl::FailedPreconditionError("Block replication is running or done");
  }
  Chain next;
  next.stage = Stage::kRunning;
  next.merged_through.resize(volumes_.size());
  RETURN_IF_ERROR(OpenDisks(&next.disks));
  for (const auto& disk : next.disks) {
    RETURN_IF_ERROR(disk->WriteMarker(name_, context_.options.data_dir));
  }
  const Epoch epoch = std::max(record.epoch, record.committed_epoch).Next();
  ASSIGN_OR_RETURN(const auto hidden, NewOverlay(LogRole::kHidden, epoch, hidden_log_.end()));
  ASSIGN_OR_RETURN(next.active, NewOverlay(LogRole::kActive, epoch, active_log_.end()));
  next.valid = std::all_of(record.volumes.begin(), record.volumes.end(),
                           [](const auto& v) { return v.initial == Initial::kEqual; });
  record.epoch = epoch;
  record.valid = next.valid;
  base::Turn::Hold commit_turn(commit_turn_);
  RETURN_IF_ERROR(StoreStart(&record, *hidden, *next.active));
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
  stream_id_ = received_sequence_ = durable_sequence_ = 0;
  active_reached_ = {.position = active_log_.end(), .sequence = active_sequence_};
}

absl::Status ReplicaImpl::WriteGroup(const GroupRecord& record, Index::Batch batch) {
  batch.PutGroup(record);
  RETURN_IF_ERROR(Annotate(context_.index.Write(std::move(batch), /*sync=*/true),
                           absl::StrCat("group ", name_)));
  base::MutexLock lock(mutex_);
  record_ = record;
  return absl::OkStatus();
}

// ---- who may write -------------------------------------------------------------------------------------------------------------

absl::Status ReplicaImpl::BindAgent(const std::string& agent_id, bool takeover) {
  base::Turn::Hold commit_turn(commit_turn_);
  GroupRecord record = this->record();
  if (record.stage != Stage::kRunning) return NotRunning();
  if (record.agent_id == agent_id) return absl::OkStatus();
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
  RETURN_IF_ERROR(WriteGroup(record, Index::Batch(context_.index)));
  base::LogInfo("primary_bound")
      .With("group", name_)
      .With("agent", agent_id)
      .With("term", record.term.value());
  NotifyChange();
  return absl::OkStatus();
}

absl::Status ReplicaImpl::AttachStream(uint64_t stream_id) {
  base::Turn::Hold hidden_turn(hidden_turn_);
  bool first = false;
  {
    base::MutexLock lock(mutex_);
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
  base::MutexLock lock(mutex_);
  stream_id_ = stream_id;
  received_sequence_ = durable_sequence_ = 0;
  incomplete_ = incomplete;
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
  const auto run = [this]() -> absl::Status {
    RETURN_IF_ERROR(CommitReceived());
    RETURN_IF_ERROR(WaitForJobs(absl::InfiniteFuture()));
    return FinishDone(/*drop_hidden=*/true);
  };
  const absl::Status stopped = run();
  if (!stopped.ok()) {
    base::MutexLock lock(mutex_);
    refusing_ = false;
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
  RangeHolds holds;
  if (options.received) {
    holds = HoldAllWrites();
    const ReplicaState state = this->state();
    uint64_t active_bytes = 0;
    for (const VolumeUsage& usage : state.usage) active_bytes += usage.active_bytes;
    if (active_bytes > 0) {
      return absl::FailedPreconditionError(absl::StrCat(
          "group ", name_, ": the secondary VM has written since the last checkpoint (",
          active_bytes, " bytes): fail over without --received"));
    }
    if (state.stage == Stage::kRunning) RETURN_IF_ERROR(CommitReceived());
  }
  Stage stage;
  {
    base::Turn::Hold commit_turn(commit_turn_);
    const GroupRecord record = this->record();
    stage = record.stage;
    if (options.epoch.has_value() && *options.epoch != record.committed_epoch) {
      return absl::UnimplementedError(
          absl::StrCat("group ", name_, ": epoch ", options.epoch->value(),
                       " is not kept; only the newest committed one, ",
                       record.committed_epoch.value(), ", can be chosen"));
    }
    if (stage == Stage::kRunning) {
      RETURN_IF_ERROR(FailoverFromRunning());
    } else if (stage == Stage::kFailoverFailed) {
      RETURN_IF_ERROR(RetryFailover());
    } else {
      return NotRunning();
    }
  }
  NotifyChange();
  ScheduleJob();
  return absl::OkStatus();
}

absl::Status ReplicaImpl::RetryFailover() {
  GroupRecord record = this->record();
  Chain next = *chain();
  next.stage = record.stage = Stage::kFailover;
  const bool missing = std::any_of(next.disks.begin(), next.disks.end(),
                                   [](const auto& disk) { return disk == nullptr; });
  if (missing) {  // at the last start
    next.disks.clear();
    RETURN_IF_ERROR(OpenDisks(&next.disks));
    next.valid = record.valid;
  }
  RETURN_IF_ERROR(WriteGroup(record, Index::Batch(context_.index)));
  Publish(std::make_shared<const Chain>(std::move(next)));
  base::MutexLock lock(mutex_);
  failed_ = absl::OkStatus();
  if (missing) closing_ = false;
  return absl::OkStatus();
}

absl::Status ReplicaImpl::FailoverFromRunning() {
  Chain next = *chain();
  if (!next.valid) {
    {
      base::MutexLock lock(mutex_);
      RETURN_IF_ERROR(failed_);  // a disk that could not be opened
    }
    return WithReason(
        absl::FailedPreconditionError(
            absl::StrCat("group ", name_,
                         ": there is no checkpoint to fail over to: the first sync has not ended")),
        kReasonNoCheckpoint);
  }
  GroupRecord record = this->record();
  // With --durability=none, published checkpoints may wait for their batch: they stay, and recovery can redo them.
  size_t keep = 0;
  {
    base::MutexLock lock(mutex_);
    for (size_t i = 0; i < hidden_pending_.size(); ++i) {
      const auto& checkpoint = hidden_pending_[i].checkpoint;
      if (checkpoint != nullptr && checkpoint->published) keep = i + 1;
    }
    record.roll_forward_through = committed_.epoch;
  }
  Index::Batch batch(context_.index);
  if (keep == 0) {
    batch.DeleteOverlay(record.hidden);
    record.hidden = OverlayId();
  }
  record.stage = Stage::kFailover;
  record.term = record.term.Next();
  RETURN_IF_ERROR(WriteGroup(record, std::move(batch)));

  next.stage = Stage::kFailover;
  Publish(std::make_shared<const Chain>(std::move(next)));
  auto dropped = std::make_shared<std::deque<PendingFrame>>();
  std::shared_ptr<Overlay> hidden;
  {
    base::MutexLock lock(mutex_);
    hidden.swap(hidden_);
    failed_ = absl::OkStatus();  // a hidden log that cannot be trusted is no longer needed
    const auto first = hidden_pending_.begin() + static_cast<std::ptrdiff_t>(keep);
    std::move(first, hidden_pending_.end(), std::back_inserter(*dropped));
    hidden_pending_.erase(first, hidden_pending_.end());
  }
  for (PendingFrame& frame : *dropped) {
    if (frame.checkpoint != nullptr) {
      Answer(*frame.checkpoint, WithReason(absl::FailedPreconditionError(
                                               "failed over before the checkpoint was committed"),
                                           kReasonFenced));
    }
  }
  // Millions of extents and many files may end here: not on the way of a failover's answer.
  context_.jobs.Submit([dropped, hidden = std::move(hidden)] {});
  dropped = nullptr;
  base::LogInfo("failover")
      .With("group", name_)
      .With("term", record.term.value())
      .With("epoch", record.roll_forward_through.value());
  return absl::OkStatus();
}

absl::Status ReplicaImpl::FinishDone(bool drop_hidden) {
  const RangeHolds holds = HoldAllWrites();
  for (const auto& disk : chain()->disks) RETURN_IF_ERROR(disk->Sync());
  base::Turn::Hold flush_turn(flush_turn_);
  base::Turn::Hold commit_turn(commit_turn_);
  const std::shared_ptr<const Chain> old_chain = chain();
  GroupRecord record = this->record();
  if (!drop_hidden && record.stage != Stage::kFailover) return absl::OkStatus();
  for (const VolumeInfo& volume :
       volumes_) {  // written to active since the job's last window: it goes on
    if (!drop_hidden && !UnmergedPieces(volume.id, {0, volume.size_bytes}).empty())
      return absl::OkStatus();
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
  batch.DeleteOverlay(record.active);
  for (const auto& overlay : old_chain->committed) batch.DeleteOverlay(overlay->id());
  record.hidden = record.active = OverlayId();
  record.stage = Stage::kDone;
  RETURN_IF_ERROR(WriteGroup(record, std::move(batch)));
  Chain next;
  next.stage = Stage::kDone;
  next.valid = true;
  next.merged_through.resize(volumes_.size());
  next.disks = old_chain->disks;
  Publish(std::make_shared<const Chain>(std::move(next)));
  ForgetOverlays();
  for (const auto& disk : old_chain->disks) RETURN_IF_ERROR(disk->RemoveMarker());
  base::LogInfo("replication_done")
      .With("group", name_)
      .With("epoch", record.committed_epoch.value());
  return absl::OkStatus();
}

// After their drop is durable. They end outside the lock: many extents and files may go with them.
void ReplicaImpl::ForgetOverlays() {
  std::shared_ptr<Overlay> hidden;
  std::deque<PendingFrame> hidden_pending;
  std::deque<PendingFrame> active_pending;
  base::MutexLock lock(mutex_);
  hidden.swap(hidden_);
  hidden_pending.swap(hidden_pending_);
  active_pending.swap(active_pending_);
  backlog_epochs_ = 0;
  changed_.NotifyAll();
}

absl::Status ReplicaImpl::Retire() {
  Close();
  base::Turn::Hold control(control_turn_);
  base::Turn::Hold hidden_turn(hidden_turn_);
  base::Turn::Hold flush_turn(flush_turn_);
  base::Turn::Hold commit_turn(commit_turn_);
  GroupRecord record = this->record();
  const std::shared_ptr<const Chain> old_chain = chain();
  Index::Batch batch(context_.index);
  batch.DeleteGroup(name_);
  batch.DeletePositions(record.number);
  if (record.hidden != OverlayId()) batch.DeleteOverlay(record.hidden);
  if (record.active != OverlayId()) batch.DeleteOverlay(record.active);
  for (const auto& overlay : old_chain->committed) batch.DeleteOverlay(overlay->id());
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
  for (const auto& disk : old_chain->disks) {
    if (disk != nullptr) RETURN_IF_ERROR(disk->RemoveMarker());
  }
  return absl::OkStatus();
}

void ReplicaImpl::Close() {
  {
    base::MutexLock lock(mutex_);
    closing_ = true;
    changed_.NotifyAll();
    while (job_running_) changed_.Wait(mutex_);
  }
  const absl::Status flushed = FlushIndex(/*sync=*/true);
  if (!flushed.ok()) base::LogError("not_flushed").With("group", name_).With("status", flushed);
}

}  // namespace understudy::storage
