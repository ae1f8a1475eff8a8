// How much of the disk a group's overlays may take: limits, what is given up at them, and the compaction of the open epoch.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

#include "storage/base/log.h"
#include "storage/base/reason.h"
#include "storage/base/status_macros.h"
#include "storage/replica_impl.h"

namespace understudy::storage {
namespace {

constexpr absl::Duration kThrottle = absl::Milliseconds(50);  // per frame, above the soft mark
constexpr absl::Duration kPoll = absl::Milliseconds(20);
constexpr absl::Duration kPatience = absl::Seconds(10);  // with an apply job that does not get on

bool Over(uint64_t used, uint64_t limit) { return limit != 0 && used > limit; }

// A checkpoint or a failover has come while its bytes were moved. An error, so that nobody waits for segments that never get free.
absl::Status NotOpen() { return absl::AbortedError("the overlay is no longer open"); }

}  // namespace

// ---- limits -----------------------------------------------------------------------------------------------------------------------

bool ReplicaImpl::OverSoftMark() const {
  const StoreOptions& options = context_.options;
  return Over(overlay_usage_->load(), options.overlay_bytes_max / 5 * 4) ||
         Over(context_.segments.used_bytes(), options.overlay_bytes_total / 5 * 4);
}

absl::Status ReplicaImpl::CheckLimits(uint64_t more_bytes) const {
  const StoreOptions& options = context_.options;
  const auto refuse = [&](absl::string_view whose, uint64_t used, absl::string_view flag,
                          uint64_t limit) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "group ", name_, ": the overlays ", whose, " take ", used, " bytes, ", flag, " is ", limit,
        ": take a checkpoint, so that they can be applied, or raise ", "the limit"));
  };
  const uint64_t used = overlay_usage_->load();
  if (Over(used + more_bytes, options.overlay_bytes_max)) {
    return refuse("of the group", used, "--overlay-bytes-max", options.overlay_bytes_max);
  }
  const uint64_t total = context_.segments.used_bytes();
  if (Over(total + more_bytes, options.overlay_bytes_total)) {
    return refuse("of all groups", total, "--overlay-bytes-total", options.overlay_bytes_total);
  }
  return absl::OkStatus();
}

uint64_t ReplicaImpl::HoleBytes(const base::FileIdentity& beside) const {
  uint64_t bytes = 0;
  const std::shared_ptr<const Chain> chain = this->chain();
  for (const auto& disk : chain->disks) {
    if (disk != nullptr) bytes += disk->HoleBytes(beside);
  }
  return bytes;
}

void ReplicaImpl::LetLogsGoWhenIdle() {
  {
    base::MutexLock lock(mutex_);
    if (closing_ || std::exchange(idle_queued_, true)) return;
  }
  context_.write_back.SubmitAfter(
      context_.options.log_idle_delay,
      [self = shared_from_this(), hidden = hidden_log_.end(), active = active_log_.end()] {
        {
          base::MutexLock lock(self->mutex_);
          self->idle_queued_ = false;
        }
        if (self->hidden_log_.end() == hidden && self->active_log_.end() == active) {
          self->LetLogsGo();
        } else {
          self->LetLogsGoWhenIdle();
        }
      });
}

// What is in the files must be in the index, durably, or of no use to anybody.
void ReplicaImpl::LetLogsGo() {
  const GroupRecord record = this->record();
  for (const auto& [log, role] :
       {std::pair(&hidden_log_, LogRole::kHidden), std::pair(&active_log_, LogRole::kActive)}) {
    if (record.stage == Stage::kDone) {
      log->LetGo(log->end());
      continue;
    }
    const auto indexed = context_.index.Position(record.number, role);
    if (!indexed.ok() || !context_.index.Sync().ok()) continue;  // reported by whoever needs it
    log->LetGo(indexed->position);
  }
}

// Above the soft mark the primary is slowed down to what can be applied, and history gives way. REQUIRES: hidden_turn_.
void ReplicaImpl::KeepBelowSoftMark() {
  if (!OverSoftMark()) return;
  bool commit = false;
  {
    base::Turn::Hold commit_turn(commit_turn_);
    UpdateBacklog();
  }
  ScheduleJob();
  {
    base::MutexLock lock(mutex_);
    commit = MayCommitItself() && backlog_epochs_ == 0 && !CheckpointPending();
    if (job_running_ && !closing_) changed_.WaitFor(mutex_, kThrottle);
  }
  if (commit) CommitItself().IgnoreError();  // at the limit it is tried again
}

bool ReplicaImpl::CheckpointPending() const {
  return std::any_of(hidden_pending_.begin(), hidden_pending_.end(),
                     [](const PendingFrame& frame) { return frame.checkpoint != nullptr; });
}

bool ReplicaImpl::MayCommitItself() const {
  const bool allowed = (may_checkpoint_ && !incomplete_) || InFirstSync();
  return allowed && record_.stage == Stage::kRunning && failed_.ok() && hidden_ != nullptr &&
         hidden_->bytes() > 0;
}

// Commits what was received: a state the primary's disks had, or a step of the first sync. REQUIRES: hidden_turn_, MayCommitItself().
absl::Status ReplicaImpl::CommitItself() {
  ASSIGN_OR_RETURN(const auto checkpoint, NewCheckpoint());
  bool step = false;
  {
    base::MutexLock lock(mutex_);
    step = InFirstSync();
  }
  if (step) {
    checkpoint->unix_micros = 0;
  } else {
    base::LogInfo("early_checkpoint")
        .With("group", name_)
        .With("epoch", checkpoint->result.epoch.value())
        .With("overlay_bytes", overlay_usage_->load());
  }
  return CommitHere(checkpoint);
}

// Nobody sees the disks: there was no checkpoint, and none is on its way or prepared.
bool ReplicaImpl::InFirstSync() const {
  return record_.stage == Stage::kRunning && !record_.valid && incomplete_ &&
         record_.prepared_epoch == Epoch() && !CheckpointPending();
}

// What was received goes to the disks before there is a checkpoint, so that a first sync takes little room whatever it copies. What it
// receives faster than the disks take it waits for them. REQUIRES: hidden_turn_.
absl::Status ReplicaImpl::StepFirstSync() {
  const uint64_t step_bytes = context_.options.first_sync_step_bytes;
  uint64_t hidden_bytes = 0;
  bool applying = false;
  {
    base::MutexLock lock(mutex_);
    if (record_.valid || !MayCommitItself()) return absl::OkStatus();
    hidden_bytes = hidden_->bytes();
    applying = backlog_epochs_ > 0;
  }
  if (hidden_bytes < step_bytes) return absl::OkStatus();
  if (!applying) return CommitItself();
  if (hidden_bytes >= 2 * step_bytes) AwaitApply();
  return absl::OkStatus();
}

// Waits until the apply job has freed segments. False: it frees none, or does not get on.
bool ReplicaImpl::AwaitApply() {
  const uint64_t used = context_.segments.used_bytes();
  absl::Duration last_progress = context_.clock.Monotonic();
  uint64_t done_bytes = 0;
  ScheduleJob();
  base::MutexLock lock(mutex_);
  while (context_.segments.used_bytes() >= used) {
    if (!job_running_ || closing_ || record_.stage != Stage::kRunning) return false;
    if (job_.done_bytes != done_bytes) {
      done_bytes = job_.done_bytes;
      last_progress = context_.clock.Monotonic();
    } else if (context_.clock.Monotonic() - last_progress > kPatience) {
      return false;
    }
    changed_.WaitFor(mutex_, kPoll);
  }
  return true;
}

// Gives up what can be given up: clones, history, the wait for the apply job, at last the epoch itself when it may be committed
// here. OK: try again. REQUIRES: hidden_turn_.
absl::Status ReplicaImpl::FreeRoom(const absl::Status& full) {
  if (!clones().empty()) {
    EndClones("the group needs the room");
    base::Turn::Hold commit_turn(commit_turn_);
    UpdateBacklog();
    return absl::OkStatus();
  }
  bool backlog = false;
  bool committing = false;
  bool commit = false;
  {
    base::Turn::Hold commit_turn(commit_turn_);
    UpdateBacklog();
    base::MutexLock lock(mutex_);
    backlog = backlog_epochs_ > 0;
    committing = CheckpointPending();
    commit = MayCommitItself();
  }
  if (backlog) return AwaitApply() ? absl::OkStatus() : full;
  if (!committing && !commit) return full;
  if (!committing) RETURN_IF_ERROR(CommitItself());
  return FlushIndex(/*sync=*/true);
}

// Before a frame of `bytes`. REQUIRES: hidden_turn_.
absl::Status ReplicaImpl::MakeRoom(uint64_t bytes) {
  RETURN_IF_ERROR(StepFirstSync());
  KeepBelowSoftMark();
  while (true) {
    const absl::Status full = CheckLimits(bytes);
    if (full.ok()) return full;
    RETURN_IF_ERROR(FreeRoom(full));
  }
}

// ---- compaction ---------------------------------------------------------------------------------------------------------------------

// A part of the work, in proportion to the `bytes` just appended to the overlay's log. Called by the one that appends.
void ReplicaImpl::Compact(Compactor& compactor, const std::shared_ptr<Overlay>& overlay,
                          uint64_t bytes) {
  while (overlay != nullptr && compactor.Due(*overlay, bytes)) {
    const absl::StatusOr<bool> emptied = CompactStep(compactor, overlay);
    if (!emptied.ok()) {
      compactor.GiveUp();
      // Of a full disk the next frame learns by itself, and a failed flush has been reported.
      const bool known = absl::IsResourceExhausted(emptied.status()) ||
                         absl::IsAborted(emptied.status()) ||
                         (&compactor == &hidden_compactor_ && HiddenFailed());
      if (!known) Report({.operation = "compact", .status = emptied.status()});
      return;
    }
    const bool behind = compactor.Behind(*overlay);
    if (!behind && !*emptied) return;
    // Waited for, or fast writes would take another segment before this one is free to be written again.
    if (!FlushIndex(/*sync=*/true).ok() || !behind) return;
  }
}

// Whether it emptied segments, which are free when the index has that durably.
absl::StatusOr<bool> ReplicaImpl::CompactStep(Compactor& compactor,
                                              const std::shared_ptr<Overlay>& overlay) {
  ASSIGN_OR_RETURN(Compactor::Step step, compactor.Next(*overlay));
  if (step.operations.empty() && step.emptied.empty()) return false;
  const bool emptied = !step.emptied.empty();
  Overlay::Hold hold(*overlay, step.operations);
  RETURN_IF_ERROR(hold.Load());
  RETURN_IF_ERROR(overlay->record().role == LogRole::kHidden
                      ? MoveInHidden(overlay, std::move(step))
                      : MoveInActive(overlay, std::move(step)));
  return emptied;
}

absl::StatusOr<AppendedFrame> ReplicaImpl::AppendAgain(SegmentLog& log, OverlayId overlay,
                                                       const Compactor::Step& step,
                                                       FrameContent content) {
  if (step.operations.empty()) return AppendedFrame{.end = log.end()};
  content.overlay = overlay;
  content.operations = step.operations;
  content.compaction = true;
  const std::span<const char> payload(step.payload);
  content.payload = std::span(&payload, 1);
  return log.Append(content);
}

absl::Status ReplicaImpl::MoveInHidden(const std::shared_ptr<Overlay>& hidden,
                                       Compactor::Step step) {
  FrameContent content;
  {
    base::MutexLock lock(mutex_);
    content.stream_id = stream_id_;
    content.term = record_.term;
    content.first_sequence = received_sequence_ + 1;
  }
  ASSIGN_OR_RETURN(const AppendedFrame frame,
                   AppendAgain(hidden_log_, hidden->id(), step, content));
  const bool flush_now = !step.emptied.empty();
  PendingFrame pending;
  pending.overlay = hidden;
  pending.change = Moved(*hidden, step, frame);
  {
    base::MutexLock lock(mutex_);
    if (hidden_ != hidden) return NotOpen();
    RETURN_IF_ERROR(failed_);  // frames before this one were given up
    pending.reached = {.position = frame.end,
                       .stream_id = stream_id_,
                       .sequence = received_sequence_,
                       .incomplete = incomplete_};
    pending_bytes_ += step.payload.size() + kBlockBytes;
    pending.emptied = std::move(step.emptied);
    hidden_pending_.push_back(std::move(pending));
  }
  ScheduleFlush(flush_now);
  return absl::OkStatus();
}

absl::Status ReplicaImpl::MoveInActive(const std::shared_ptr<Overlay>& active,
                                       Compactor::Step step) {
  FrameContent content;
  {
    base::MutexLock lock(mutex_);
    content.term = record_.term;
    content.first_sequence = active_sequence_ + 1;
  }
  ASSIGN_OR_RETURN(const AppendedFrame frame,
                   AppendAgain(active_log_, active->id(), step, content));
  const bool flush_now = !step.emptied.empty();
  {
    base::WriterLock lock(view_mutex_);
    // After a failover the commit job empties it: what it has taken to the disk must not come back.
    if (chain_->stage != Stage::kRunning || chain_->active != active) return NotOpen();
    base::MutexLock memory_lock(mutex_);
    if (ActiveGivenUp()) return failed_;
    PendingFrame pending;
    pending.overlay = active;
    pending.change = Moved(*active, step, frame);
    active_reached_.position = frame.end;
    pending.reached = active_reached_;
    pending_bytes_ += step.payload.size() + kBlockBytes;
    pending.emptied = std::move(step.emptied);
    active_pending_.push_back(std::move(pending));
  }
  ScheduleFlush(flush_now);
  return absl::OkStatus();
}

// Also when only segments were emptied: the overlay's record does without them then.
OverlayChange ReplicaImpl::Moved(Overlay& overlay, const Compactor::Step& step,
                                 const AppendedFrame& frame) {
  if (step.operations.empty()) return overlay.NoChange();
  return overlay.Apply(step.operations, frame.segment, {frame.payload, frame.checksums});
}

}  // namespace understudy::storage
