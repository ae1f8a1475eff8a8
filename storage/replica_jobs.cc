#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {
namespace {

// With a limit on the rate, steps are smaller: JobStepBytes().
constexpr uint64_t kApplyWindowBytes = 4 << 20;  // of the volume
constexpr uint64_t kMergeChunkBytes = 64 << 10;  // of the volume; a merge window has several

uint64_t PieceBytes(std::span<const Piece> pieces) {
  uint64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.range.size();
  return bytes;
}

uint64_t DataBytes(std::span<const Piece> pieces) {
  uint64_t bytes = 0;
  for (const Piece& piece : pieces) bytes += piece.extent.zero() ? 0 : piece.range.size();
  return bytes;
}

// However often the VM wrote a block, it is copied once.
std::vector<ByteRange> Coalesce(std::vector<ByteRange> ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<ByteRange> merged;
  for (const ByteRange& range : ranges) {
    if (merged.empty() || merged.back().end < range.start) {
      merged.push_back(range);
    } else {
      merged.back().end = std::max(merged.back().end, range.end);
    }
  }
  return merged;
}

}  // namespace

// ---- running ----------------------------------------------------------------------------------------------------------------

bool ReplicaImpl::HasJob() const {
  return (record_.stage == Stage::kRunning && backlog_epochs_ > 0) ||
         record_.stage == Stage::kFailover;
}

bool ReplicaImpl::JobMustStop() const {
  base::MutexLock lock(mutex_);
  return closing_;
}

void ReplicaImpl::ScheduleJob() {
  {
    base::MutexLock lock(mutex_);
    if (job_running_ || closing_ || !HasJob()) return;
    job_running_ = true;
    job_status_ = absl::OkStatus();
    job_ = {};
  }
  context_.jobs.Submit([self = shared_from_this()] { self->RunJob(); });
}

void ReplicaImpl::RunJob() {
  absl::Status status;
  Stage stage = Stage::kRunning;
  uint64_t reasons = 0;
  while (status.ok() && !JobMustStop()) {
    {
      base::MutexLock lock(mutex_);
      if (!HasJob()) break;
      stage = record_.stage;
      reasons = job_reasons_;
    }
    status = stage == Stage::kRunning ? Apply() : CommitJob();
    EndJob(status);
    base::MutexLock lock(mutex_);
    if (HasNewReason(stage, reasons)) status = absl::OkStatus();
  }
  if (!status.ok()) FailJob(status, stage);
  {
    base::MutexLock lock(mutex_);
    if (HasNewReason(stage, reasons)) status = absl::OkStatus();
    job_status_ = status;
    job_running_ = false;
    changed_.NotifyAll();
  }
  NotifyChange();
  if (status.ok()) ScheduleJob();  // for what came after the last look
  LetLogsGoWhenIdle();
}

// A checkpoint, a failover or a repeated one came while a job of `stage` failed: its own reason to try must not be lost.
bool ReplicaImpl::HasNewReason(Stage stage, uint64_t reasons) const {
  return job_reasons_ != reasons || (stage == Stage::kRunning && record_.stage != stage);
}

void ReplicaImpl::RetryJob() {
  if (record_.stage != Stage::kRunning || failed_.ok()) job_status_ = absl::OkStatus();
  ++job_reasons_;
}

void ReplicaImpl::BeginJob(const std::string& kind, uint64_t total_bytes) {
  job_damage_ = absl::OkStatus();
  job_range_ = {};
  {
    base::MutexLock lock(mutex_);
    job_ = {.kind = kind, .done_bytes = 0, .total_bytes = total_bytes};
  }
  TellJob(kind, std::nullopt);
}

void ReplicaImpl::EndJob(const absl::Status& status) {
  JobProgress ended;
  {
    base::MutexLock lock(mutex_);
    std::swap(job_, ended);
  }
  if (!ended.kind.empty()) TellJob(ended.kind, status);
}

void ReplicaImpl::FailJob(const absl::Status& status, Stage stage) {
  if (stage == Stage::kFailover) FailStage();
  if (!job_damage_.ok() && status == job_damage_) return;  // reported where it was met
  BackgroundError error{.operation = stage == Stage::kFailover ? "commit" : "apply",
                        .range = job_range_,
                        .status = status};
  if (!job_range_.empty()) error.volume = job_volume_;
  Report(error);
}

void ReplicaImpl::FailStage() {
  base::Turn::Hold commit_turn(commit_turn_);
  GroupRecord failed = this->record();
  if (failed.stage != Stage::kFailover) return;
  failed.stage = Stage::kFailoverFailed;
  const absl::Status written = WriteGroup(failed, Index::Batch(context_.index));
  if (!written.ok()) {
    base::LogError("stage_not_stored").With("group", name_).With("status", written);
  }
  Chain next = *chain();
  next.stage = Stage::kFailoverFailed;
  Publish(std::make_shared<const Chain>(std::move(next)));
}

absl::Status ReplicaImpl::JobError(ByteRange range, const absl::Status& error) {
  job_range_ = range;
  return Annotate(error, absl::StrCat("volume ", name_, "/", volumes_[job_volume_.value()].name,
                                      " range ", range.ToString()));
}

// What a buffered write could not say is said by the sync.
absl::Status ReplicaImpl::SyncForJob(const Chain& chain, VolumeId volume, ByteRange range) {
  const absl::Status synced = chain.disks[volume.value()]->Sync();
  if (synced.ok()) return synced;
  job_volume_ = volume;
  return JobError(range, synced);
}

void ReplicaImpl::NoteJobDamage(ByteRange range, const absl::Status& damage) {
  const absl::Status annotated = JobError(range, damage);
  if (job_damage_.ok()) job_damage_ = annotated;
  const std::string operation = chain()->stage == Stage::kRunning ? "apply" : "commit";
  Report({.operation = operation, .volume = job_volume_, .range = range, .status = annotated});
}

void ReplicaImpl::NoteIndexDamage(const VolumeInfo& volume, const absl::Status& damage) {
  job_volume_ = volume.id;
  NoteJobDamage({0, volume.size_bytes}, damage);
}

absl::Status ReplicaImpl::WaitForJobs(const base::Deadline& deadline) {
  base::MutexLock lock(mutex_);
  while (job_running_ || (HasJob() && job_status_.ok() && !closing_)) {
    if (!deadline.Wait(changed_, mutex_)) {
      return absl::DeadlineExceededError(absl::StrCat("group ", name_, ": a job is still running"));
    }
  }
  return job_status_;
}

// Waits until --apply-bytes-per-second lets `bytes` of data go. False: the job has been overtaken and ends.
bool ReplicaImpl::Pace(Stage stage, uint64_t bytes) {
  base::MutexLock lock(mutex_);
  while (!closing_ && record_.stage == stage) {
    if (bytes == 0) return true;
    const absl::Duration wait = context_.apply_rate.Take(bytes, context_.clock.Monotonic());
    if (wait <= absl::ZeroDuration()) return true;
    changed_.WaitFor(mutex_, wait);
  }
  return false;
}

uint64_t ReplicaImpl::JobStepBytes() const {
  return RoundDown(context_.apply_rate.StepBytes(kMergeChunkBytes, kApplyWindowBytes),
                   kMergeChunkBytes);
}

absl::Status ReplicaImpl::CopyPieces(Copier& copier, VolumeId volume,
                                     std::span<const Piece> pieces) {
  job_volume_ = volume;
  const absl::Status copied = copier.Copy(*chain()->disks[volume.value()], pieces);
  {
    base::MutexLock lock(mutex_);
    job_.done_bytes += PieceBytes(pieces);
  }
  return copied.ok() ? copied : JobError(copier.range(), copied);
}

// ---- apply: committed epochs to the secondary disk, while RUNNING ----------------------------------------------------------

absl::Status ReplicaImpl::Apply() {
  ASSIGN_OR_RETURN(const OverlayList run, BeginApply());
  if (run.empty()) return absl::OkStatus();
  uint64_t generation = 0;
  uint64_t total_bytes = 0;
  for (const auto& overlay : run) total_bytes += overlay->bytes();
  {
    base::MutexLock lock(mutex_);
    generation = apply_generation_;
  }
  BeginJob("apply", total_bytes);
  read_gate_.WaitOlder(generation);
  const absl::Duration begun = context_.clock.Monotonic();
  Copier copier(
      [this](ByteRange range, const absl::Status& damage) { NoteJobDamage(range, damage); });
  for (const VolumeInfo& volume : volumes_) {
    const absl::Status copied = ApplyVolume(copier, run, volume.id);
    if (absl::IsDataLoss(copied)) {  // in the index; the other volumes go on
      NoteIndexDamage(volume, copied);
    } else {
      RETURN_IF_ERROR(copied);
    }
  }
  RETURN_IF_ERROR(
      job_damage_);  // the epochs stay: what lies below the damage must not show through
  const std::shared_ptr<const Chain> applied = chain();
  for (const VolumeInfo& volume : volumes_) {
    RETURN_IF_ERROR(SyncForJob(*applied, volume.id, {0, volume.size_bytes}));
  }

  base::Turn::Hold commit_turn(commit_turn_);
  // A failover takes the epochs over to the commit job, which copies them again; closing leaves them to the next start.
  GroupRecord record = this->record();
  if (record.stage != Stage::kRunning || JobMustStop()) return absl::OkStatus();
  Index::Batch batch(context_.index);
  for (const auto& overlay : run) batch.DeleteOverlay(overlay->id());
  record.applied_epoch = run.front()->epoch();
  record.applied_micros = run.front()->committed_micros();
  RETURN_IF_ERROR(WriteGroup(record, std::move(batch)));  // order rule 3
  Chain next = *chain();
  next.committed.resize(next.committed.size() - run.size());  // the run was the oldest part
  Publish(std::make_shared<const Chain>(std::move(next)));
  base::LogInfo("epochs_applied")
      .With("group", name_)
      .With("through", run.front()->epoch().value())
      .With("bytes", total_bytes)
      .With("written", copier.counts().written_bytes)
      .With("cloned", copier.counts().cloned_bytes)
      .With("holes", copier.counts().hole_bytes)
      .With("took", context_.clock.Monotonic() - begun);
  UpdateBacklog();
  return absl::OkStatus();
}

absl::Status ReplicaImpl::ApplyVolume(Copier& copier, const OverlayList& run, VolumeId volume) {
  SecondaryDisk& disk = *chain()->disks[volume.value()];
  std::vector<Piece> pieces;
  ASSIGN_OR_RETURN(std::optional<uint64_t> next, NextHeld(run, volume, 0));
  while (next.has_value()) {
    const ByteRange window = ByteRange::OfLength(*next, JobStepBytes())
                                 .Intersect({0, volumes_[volume.value()].size_bytes});
    pieces.clear();
    RETURN_IF_ERROR(ResolveOver(run, volume, window, /*with_disk=*/false, &pieces));
    if (!Pace(Stage::kRunning, DataBytes(pieces))) break;
    RETURN_IF_ERROR(CopyPieces(copier, volume, pieces));
    const absl::Status written = copier.WriteBack(disk, window, DataBytes(pieces));
    if (!written.ok()) return JobError(window, written);
    ASSIGN_OR_RETURN(next, NextHeld(run, volume, window.end));
  }
  return absl::OkStatus();
}

// ---- commit: everything to the secondary disk, after a failover, while the VM writes ----------------------------------------

// Only the job itself takes anything out of the chain's overlays, so it may look at them one after the other.
absl::StatusOr<std::vector<Piece>> ReplicaImpl::UnmergedPieces(VolumeId volume,
                                                               ByteRange range) const {
  ASSIGN_OR_RETURN(std::vector<Piece> pieces, chain()->Resolve(volume, range));
  std::erase_if(pieces, [](const Piece& piece) { return piece.overlay == nullptr; });
  return pieces;
}

// From the first byte at or after `offset` that the disk lacks; empty when there is none.
absl::StatusOr<ByteRange> ReplicaImpl::WindowFrom(VolumeId volume, uint64_t offset) const {
  const std::shared_ptr<const Chain> chain = this->chain();
  const uint64_t size_bytes = volumes_[volume.value()].size_bytes;
  ASSIGN_OR_RETURN(std::optional<uint64_t> next, chain->NextUnmerged(volume, offset));
  ByteRange window = {next.value_or(size_bytes), next.value_or(size_bytes)};
  const uint64_t chunks_max = JobStepBytes() / kMergeChunkBytes;
  for (uint64_t i = 0; i < chunks_max && next.has_value(); ++i) {
    window.end = std::min(*next + kMergeChunkBytes, size_bytes);
    ASSIGN_OR_RETURN(next, chain->NextUnmerged(volume, window.end));
  }
  return window;
}

absl::Status ReplicaImpl::CommitJob() {
  RETURN_IF_ERROR(FlushIndex(/*sync=*/true));  // order rule 2
  SetWindowsDropped(true);                     // what an earlier job could not store is stored now
  MarkDisks();
  MarkGivenUp();
  uint64_t generation = 0;
  {
    base::MutexLock lock(mutex_);
    generation = apply_generation_;
  }
  // As the apply job's: what several overlays hold is counted several times.
  const std::shared_ptr<const Chain> begun = chain();
  uint64_t total_bytes = begun->active->bytes();
  for (const auto& overlay : begun->committed) total_bytes += overlay->bytes();
  BeginJob("commit", total_bytes);
  read_gate_.WaitOlder(generation);
  Copier copier(
      [this](ByteRange range, const absl::Status& damage) { NoteJobDamage(range, damage); });
  for (const VolumeInfo& volume : volumes_) {
    const absl::StatusOr<bool> merged = MergeVolume(copier, volume.id);
    if (absl::IsDataLoss(merged.status())) {  // the other volumes go on
      if (job_damage_.ok()) NoteIndexDamage(volume, merged.status());
      continue;
    }
    RETURN_IF_ERROR(merged.status());
    if (!*merged) return absl::OkStatus();
  }
  RETURN_IF_ERROR(job_damage_);
  return FinishDone(/*drop_hidden=*/false);
}

// Window by window. False: overtaken.
absl::StatusOr<bool> ReplicaImpl::MergeVolume(Copier& copier, VolumeId volume) {
  uint64_t at = 0;
  while (true) {
    ASSIGN_OR_RETURN(const ByteRange window, WindowFrom(volume, at));
    if (window.empty()) return true;
    ASSIGN_OR_RETURN(const std::vector<Piece> pieces, UnmergedPieces(volume, window));
    if (!Pace(Stage::kFailover, DataBytes(pieces))) return false;
    RETURN_IF_ERROR(MergeWindow(copier, volume, window));
    at = window.end;
  }
}

absl::Status ReplicaImpl::MergeWindow(Copier& copier, VolumeId volume, ByteRange window) {
  {
    base::WriterLock lock(view_mutex_);
    commit_window_ = CommitWindow{.volume = volume, .range = window};
  }
  absl::Status earlier = std::exchange(job_damage_, absl::OkStatus());
  const absl::Status copied = CopyUnmerged(copier, volume, window);
  base::RangeLock::Hold hold(*range_locks_[volume.value()], window);
  std::vector<ByteRange> touched;
  {
    base::WriterLock lock(view_mutex_);
    touched = std::move(commit_window_->touched);
    commit_window_.reset();
  }
  RETURN_IF_ERROR(copied);
  for (const ByteRange& range : Coalesce(std::move(touched))) {
    ASSIGN_OR_RETURN(const std::vector<Piece> pieces, UnmergedPieces(volume, range));
    context_.apply_rate.Charge(DataBytes(pieces), context_.clock.Monotonic());
    RETURN_IF_ERROR(CopyPieces(copier, volume, pieces));
  }
  RETURN_IF_ERROR(job_damage_);
  job_damage_ = std::move(earlier);
  return EndWindow(volume, window);
}

absl::Status ReplicaImpl::CopyUnmerged(Copier& copier, VolumeId volume, ByteRange range) {
  ASSIGN_OR_RETURN(const std::vector<Piece> pieces, UnmergedPieces(volume, range));
  return CopyPieces(copier, volume, pieces);
}

// The disk has the window: from here on it is the window's only home. REQUIRES: writes to the window are held.
absl::Status ReplicaImpl::EndWindow(VolumeId volume, ByteRange window) {
  RETURN_IF_ERROR(SyncForJob(*chain(), volume, window));
  const std::shared_ptr<Overlay> active = chain()->active;
  Overlay::Hold extents(*active, volume, window);
  RETURN_IF_ERROR(Load(extents));
  {
    base::Turn::Hold commit_turn(commit_turn_);
    Chain next = *chain();
    GroupRecord record = this->record();
    uint64_t& merged_through = record.volumes[volume.value()].merged_through;
    // First the committed overlays, older than active, then active: a crash between the two must not bare the older ones.
    if (!next.committed.empty() && merged_through < window.end) {
      merged_through = window.end;
      RETURN_IF_ERROR(WriteGroup(record, Index::Batch(context_.index)));
    }
    next.merged_through[volume.value()] = std::max(next.merged_through[volume.value()], window.end);
    base::WriterLock lock(view_mutex_);
    PendingFrame erased{.overlay = active, .change = active->Erase(volume, window)};
    chain_ = std::make_shared<const Chain>(std::move(next));
    base::MutexLock memory_lock(mutex_);
    erased.reached = active_reached_;
    active_pending_.push_back(std::move(erased));
  }
  const absl::Status dropped = FlushIndex(/*sync=*/true);
  SetWindowsDropped(dropped.ok());
  return dropped;
}

void ReplicaImpl::SetWindowsDropped(bool dropped) {
  base::MutexLock lock(mutex_);
  windows_dropped_ = dropped;
}

}  // namespace understudy::storage
